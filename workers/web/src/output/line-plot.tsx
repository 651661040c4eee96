/** Long lists of numbers, drawn. A module of its own, so that its library is loaded only where there is something to draw. */
import { useCallback, useMemo, useState } from "react";
import { CopyButton } from "../components/copy-button.tsx";
import { number } from "../format.ts";
import { type Drawing, labelWidth, type PlotTheme, usePlot, WHOLE_STEPS } from "../use-plot.ts";
import type { Series } from "./classify.ts";

const HEIGHT_PX = 200;
const AXIS_PX = 56;
/** More lines than these cannot be told apart. */
const LINES_MAX = 6;
/** Numbers shown as text; all of them can be copied. */
const NUMBERS_SHOWN = 64;

/** Longer lists hide each other when they are drawn over one another: then only the first is drawn until others are asked for. */
const OVERLAID_POINTS_MAX = 200;

const nameOf = (series: Series[], index: number) => series[index]?.label ?? `List ${index + 1}`;

export default function LinePlot({ series }: { series: Series[] }) {
  const lines = useMemo(() => series.slice(0, LINES_MAX), [series]);
  const longest = Math.max(...lines.map(({ values }) => values.length));
  const [drawn, setDrawn] = useState(() => lines.map((_, index) => index === 0 || longest <= OVERLAID_POINTS_MAX));
  const first = Math.max(0, drawn.indexOf(true));
  const toggle = (index: number) => setDrawn((before) => before.map((is, at) => (at === index ? !is : is)));
  return (
    <div className="plot">
      <Canvas lines={lines} drawn={drawn} label={describe(series)} />
      {lines.length > 1 ? (
        <ul className="plot-legend">
          {lines.map((_, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: lines have no other name.
            <li key={index} data-line={index + 1}>
              <label>
                <input type="checkbox" checked={drawn[index] === true} onChange={() => toggle(index)} />
                <span>{nameOf(series, index)}</span>
              </label>
            </li>
          ))}
          {series.length > LINES_MAX ? (
            <li className="muted">and {series.length - LINES_MAX} more, all of them under JSON</li>
          ) : null}
        </ul>
      ) : null}
      <Numbers values={lines[first]?.values ?? []} name={lines.length > 1 ? nameOf(series, first) : null} />
    </div>
  );
}

function Numbers({ values, name }: { values: number[]; name: string | null }) {
  return (
    <details className="numbers">
      <summary>
        {values.length.toLocaleString("en-US")} numbers{name === null ? "" : ` of “${name}”`}
      </summary>
      <p className="numbers-text">
        {values.slice(0, NUMBERS_SHOWN).map(number).join("  ")}
        {values.length > NUMBERS_SHOWN ? " …" : ""}
      </p>
      <CopyButton text={() => JSON.stringify(values)} label="Copy all" />
    </details>
  );
}

function Canvas({ lines, drawn, label }: { lines: Series[]; drawn: boolean[]; label: string }) {
  const draw = useCallback(
    ({ axis, colour }: PlotTheme): Drawing => {
      const longest = Math.max(...lines.map(({ values }) => values.length));
      return {
        options: {
          height: HEIGHT_PX,
          legend: { show: false },
          cursor: { drag: { x: true, y: false } },
          scales: { x: { time: false } },
          axes: [
            { ...axis, incrs: WHOLE_STEPS },
            {
              ...axis,
              size: (_, labels) => labelWidth(labels, AXIS_PX),
              values: (_, ticks) => ticks.map((tick) => number(tick)),
            },
          ],
          series: [
            {},
            ...lines.map((_, index) => ({
              stroke: colour(`--line-${index + 1}`),
              width: 1.25,
              points: { fill: colour("--surface") },
              show: drawn[index] === true,
            })),
          ],
        },
        data: [
          Array.from({ length: longest }, (_, index) => index),
          ...lines.map(({ values }) => Array.from({ length: longest }, (_, index) => values[index] ?? null)),
        ],
      };
    },
    [lines, drawn],
  );
  const box = usePlot(draw);
  return <div ref={box} className="plot-canvas" role="img" aria-label={label} />;
}

function describe(series: Series[]): string {
  const all = series.flatMap(({ values }) => values);
  const low = all.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const high = all.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const lists = series.length === 1 ? "A list" : `${series.length} lists`;
  return `${lists} of ${series[0]?.values.length ?? 0} numbers between ${number(low)} and ${number(high)}, drawn as lines`;
}
