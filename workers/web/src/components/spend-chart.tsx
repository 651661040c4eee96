/** Spending by day, as bars. A module of its own, so that its library is loaded only where there is something to draw. */
import { useCallback, useMemo } from "react";
import uPlot from "uplot";
import type { Usage } from "../api.ts";
import { dollars } from "../format.ts";
import { type Drawing, labelWidth, type PlotTheme, usePlot, WHOLE_STEPS } from "../use-plot.ts";

const HEIGHT_PX = 190;
const AXIS_PX = 64;
const DAY_MS = 86_400_000;
const HALF_DAY_S = DAY_MS / 2_000;
/** The widest that a bar gets, and how much of its day it fills. */
const BAR_PX = 36;
const BAR_SHARE = 0.62;

export default function SpendChart({ usage }: { usage: Usage }) {
  const days = useMemo(() => daysOf(usage), [usage]);
  const draw = useCallback(
    ({ axis, colour }: PlotTheme): Drawing => {
      const bars = uPlot.paths.bars?.({ size: [BAR_SHARE, BAR_PX], radius: 0.15 });
      const fill = colour("--line-1");
      return {
        options: {
          height: HEIGHT_PX,
          legend: { show: false },
          cursor: { show: false },
          tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1_000), "UTC"),
          scales: {
            // The whole bar of the first day and of the last.
            x: { range: (_, first, last) => [first - HALF_DAY_S, last + HALF_DAY_S] },
            y: { range: (_, _min, max) => [0, max === 0 ? 1 : max * 1.1] },
          },
          axes: [
            {
              ...axis,
              grid: { show: false },
              values: (_, ticks) => ticks.map(dayName),
              incrs: [1, 2, 7, 14].map((n) => (n * DAY_MS) / 1_000),
              space: 56,
            },
            {
              ...axis,
              size: (_, labels) => labelWidth(labels, AXIS_PX),
              // There is nothing between two micro-dollars.
              incrs: WHOLE_STEPS,
              values: (_, ticks) => ticks.map(dollars),
            },
          ],
          series: [
            {},
            { fill, stroke: fill, width: 0, points: { show: false }, ...(bars === undefined ? {} : { paths: bars }) },
          ],
        },
        data: [days.map(({ at }) => at / 1_000), days.map(({ micros }) => micros)],
      };
    },
    [days],
  );
  const box = usePlot(draw);
  return (
    <figure className="plot">
      <div ref={box} className="plot-canvas" role="img" aria-label={describe(days)} />
      <details className="numbers">
        <summary>Day by day</summary>
        <div className="table-scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Day (UTC)</th>
                <th scope="col" className="numeral">
                  Cost
                </th>
              </tr>
            </thead>
            <tbody>
              {usage.results.map((row) => (
                <tr key={row.day ?? ""}>
                  <td>{row.day}</td>
                  <td className="numeral">{dollars(row.amount_micros)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}

/** Every day of the time that was asked for: those without charges too. */
function daysOf(usage: Usage): { at: number; micros: number }[] {
  const known = new Map(usage.results.map((row) => [row.day, row.amount_micros]));
  const from = Date.parse(`${usage.from}T00:00:00Z`);
  const count = Math.round((Date.parse(`${usage.to}T00:00:00Z`) - from) / DAY_MS) + 1;
  return Array.from({ length: count }, (_, n) => {
    const at = from + n * DAY_MS;
    return { at, micros: known.get(new Date(at).toISOString().slice(0, 10)) ?? 0 };
  });
}

function dayName(seconds: number): string {
  return new Date(seconds * 1_000).toLocaleDateString(undefined, { timeZone: "UTC", day: "numeric", month: "short" });
}

function describe(days: { at: number; micros: number }[]): string {
  const most = days.reduce((best, day) => (day.micros > best.micros ? day : best), { at: 0, micros: 0 });
  const total = days.reduce((sum, { micros }) => sum + micros, 0);
  return `Spending on ${days.length} days: ${dollars(total)} in all, most on ${dayName(most.at / 1_000)} with ${dollars(most.micros)}`;
}
