/** A small matrix as numbers on a shade, such as how alike a few sentences are. A few long rows are series, and drawn as lines. */
import { number } from "../format.ts";
import type { Series } from "./classify.ts";

/** More rows or columns than these are drawn as lines. */
const ROWS_MAX = 24;
const COLUMNS_MAX = 12;
const COLUMNS_OF_ROWS_MAX = 3;

export function isHeatTable(series: Series[]): boolean {
  const width = series[0]?.values.length ?? 0;
  return (
    series.length > 1 &&
    series.length <= ROWS_MAX &&
    width <= Math.min(COLUMNS_MAX, series.length * COLUMNS_OF_ROWS_MAX) &&
    series.every(({ values }) => values.length === width)
  );
}

/** Ten shades, as classes: the page's policy allows no styles in markup. */
const SHADES = 10;

export function HeatTable({ series }: { series: Series[] }) {
  const all = series.flatMap(({ values }) => values);
  const low = Math.min(...all);
  const span = Math.max(...all) - low;
  const shade = (value: number) => (span === 0 ? 0 : Math.round(((value - low) / span) * (SHADES - 1)));
  const isLabelled = series.some(({ label }) => label !== null);
  return (
    <div className="table-scroll">
      <table className="heat">
        <thead>
          <tr>
            {isLabelled ? <td /> : null}
            {series[0]?.values.map((_, column) => (
              // biome-ignore lint/suspicious/noArrayIndexKey: columns have no other name.
              <th key={column} scope="col">
                {column + 1}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {series.map(({ label, values }, row) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: rows have no other name.
            <tr key={row}>
              {isLabelled ? (
                <th scope="row">
                  <span className="heat-index">{row + 1}</span> {label}
                </th>
              ) : null}
              {values.map((value, column) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: cells have no other name.
                <td key={column} className="numeral" data-shade={shade(value)}>
                  {number(Number(value.toFixed(3)))}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
