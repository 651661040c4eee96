/** Long lists of numbers, drawn. A module of its own, so that its library is loaded only where there is something to draw. */
import { useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { CopyButton } from "../components/copy-button.tsx";
import { number } from "../format.ts";
import type { Series } from "./classify.ts";

const HEIGHT_PX = 200;
/** More lines than these cannot be told apart. */
const LINES_MAX = 6;
/** Numbers shown as text; all of them can be copied. */
const NUMBERS_SHOWN = 64;

/** Colours of lines, from styles/output.css, so that they follow the theme. */
function lineColours(element: Element): string[] {
  const style = getComputedStyle(element);
  return Array.from(
    { length: LINES_MAX },
    (_, index) => style.getPropertyValue(`--line-${index + 1}`).trim() || "#888",
  );
}

export default function LinePlot({ series }: { series: Series[] }) {
  const box = useRef<HTMLDivElement>(null);
  const [scheme, setScheme] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  const [chosen, setChosen] = useState(0);
  const shown = series.slice(0, LINES_MAX);

  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => setScheme(dark.matches);
    dark.addEventListener("change", follow);
    return () => dark.removeEventListener("change", follow);
  }, []);

  // `scheme` is read through the computed colours: a change draws anew.
  // biome-ignore lint/correctness/useExhaustiveDependencies: see above.
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const colours = lineColours(element);
    const axis = getComputedStyle(element).getPropertyValue("--muted").trim();
    const grid = getComputedStyle(element).getPropertyValue("--line").trim();
    const longest = Math.max(...shown.map(({ values }) => values.length));
    const axes = {
      stroke: axis,
      grid: { stroke: grid, width: 1 },
      ticks: { stroke: grid, width: 1 },
      font: "12px sans-serif",
    };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT_PX,
        legend: { show: false },
        cursor: { drag: { x: true, y: false } },
        scales: { x: { time: false } },
        axes: [axes, { ...axes, size: 52, values: (_, ticks) => ticks.map((tick) => number(tick)) }],
        series: [
          {},
          ...shown.map((_, index) => ({ stroke: colours[index] ?? axis, width: shown.length === 1 ? 1.25 : 1 })),
        ],
      },
      [
        Array.from({ length: longest }, (_, index) => index),
        ...shown.map(({ values }) => Array.from({ length: longest }, (_, index) => values[index] ?? null)),
      ],
      element,
    );
    const resize = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT_PX }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      plot.destroy();
    };
  }, [series, scheme]);

  const current = series[Math.min(chosen, series.length - 1)]?.values ?? [];
  return (
    <div className="plot">
      <div ref={box} className="plot-canvas" role="img" aria-label={describe(series)} />
      {series.length > 1 ? (
        <ol className="plot-legend">
          {shown.map(({ label }, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: lines have no other name.
            <li key={index} data-line={index + 1}>
              {label ?? `List ${index + 1}`}
            </li>
          ))}
          {series.length > LINES_MAX ? <li className="muted">and {series.length - LINES_MAX} more</li> : null}
        </ol>
      ) : null}
      <details className="numbers">
        <summary>
          {current.length.toLocaleString("en-US")} numbers{series.length > 1 ? " each" : ""}
        </summary>
        {series.length > 1 ? (
          <label className="numbers-choice">
            <span>Of</span>
            <select value={chosen} onChange={(event) => setChosen(Number(event.target.value))}>
              {series.map(({ label }, index) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: lines have no other name.
                <option key={index} value={index}>
                  {label ?? `List ${index + 1}`}
                </option>
              ))}
            </select>
          </label>
        ) : null}
        <p className="numbers-text">
          {current.slice(0, NUMBERS_SHOWN).map(number).join("  ")}
          {current.length > NUMBERS_SHOWN ? " …" : ""}
        </p>
        <CopyButton text={() => JSON.stringify(current)} label="Copy all" />
      </details>
    </div>
  );
}

function describe(series: Series[]): string {
  const all = series.flatMap(({ values }) => values);
  const low = all.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const high = all.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const lists = series.length === 1 ? "A list" : `${series.length} lists`;
  return `${lists} of ${series[0]?.values.length ?? 0} numbers between ${number(low)} and ${number(high)}, drawn as lines`;
}
