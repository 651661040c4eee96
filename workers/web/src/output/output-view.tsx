/** A model's output as a person wants it: pictures as pictures, numbers drawn, structures as tables, nothing as a raw dump. */
import { lazy, Suspense } from "react";
import { number, words } from "../format.ts";
import { classify, isObject, type Score, type Series } from "./classify.ts";
import { HeatTable, isHeatTable } from "./heat-table.tsx";
import { OutputFile } from "./media.tsx";

const LinePlot = lazy(() => import("./line-plot.tsx"));

interface Props {
  value: unknown;
  schema?: Record<string, unknown>;
  /** text still grows: a caret shows it */
  isLive?: boolean;
  depth?: number;
}

/** Deeper structures start folded. */
const OPEN_DEPTH = 2;
/** Rows, items or files that are shown before "show all". */
const ITEMS_SHOWN = 100;

export function OutputView({ value, schema = {}, isLive = false, depth = 0 }: Props) {
  const shape = classify(value, schema);
  switch (shape.kind) {
    case "nothing":
      return <p className="muted">{Array.isArray(value) ? "An empty list" : "Nothing"}</p>;
    case "text":
      return <TextOutput text={shape.text} isLive={isLive} depth={depth} />;
    case "texts":
      return (
        <ol className="output-texts">
          {shape.texts.slice(0, ITEMS_SHOWN).map((text, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: outputs are only ever appended.
            <li key={index}>{text}</li>
          ))}
          <More shown={ITEMS_SHOWN} total={shape.texts.length} />
        </ol>
      );
    case "file":
      return <OutputFile url={shape.url} label="Output" />;
    case "files":
      return (
        <div className="output-files" data-count={Math.min(shape.urls.length, 3)}>
          {shape.urls.slice(0, ITEMS_SHOWN).map((url, index) => (
            <OutputFile key={url} url={url} label={`Output ${index + 1}`} />
          ))}
        </div>
      );
    case "number":
      return <p className={depth === 0 ? "output-number" : "numeral"}>{number(shape.value)}</p>;
    case "boolean":
      return <p className={depth === 0 ? "output-number" : ""}>{shape.value ? "Yes" : "No"}</p>;
    case "scores":
      return <Scores scores={shape.scores} />;
    case "series":
      return <SeriesOutput series={shape.series} />;
    case "table":
      return <Table columns={shape.columns} rows={shape.rows} />;
    case "fields":
      return <Fields fields={shape.fields} properties={schema["properties"]} depth={depth} />;
    case "list":
      return (
        <ol className="output-list">
          {shape.items.slice(0, ITEMS_SHOWN).map((item, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: outputs are only ever appended.
            <li key={index}>
              <OutputView value={item} depth={depth + 1} />
            </li>
          ))}
          <More shown={ITEMS_SHOWN} total={shape.items.length} />
        </ol>
      );
  }
}

function TextOutput({ text, isLive, depth }: { text: string; isLive: boolean; depth: number }) {
  const link = /^https?:\/\/\S+$/.test(text);
  if (depth > 0)
    return link ? (
      <a href={text} rel="noreferrer">
        {text}
      </a>
    ) : (
      <p className="output-field-text">{text}</p>
    );
  return (
    <div className="output-text" data-testid="output-text">
      {link ? (
        <a href={text} rel="noreferrer">
          {text}
        </a>
      ) : (
        text.trimStart()
      )}
      {isLive ? <span className="caret" aria-hidden /> : null}
    </div>
  );
}

function Scores({ scores }: { scores: Score[] }) {
  return (
    <ul className="scores">
      {scores.slice(0, ITEMS_SHOWN).map(({ label, score }) => (
        <li key={label}>
          <span>{label}</span>
          <span className="numeral">{(score * 100).toFixed(1)} %</span>
          <meter min={0} max={1} value={score} aria-label={label} />
        </li>
      ))}
    </ul>
  );
}

function SeriesOutput({ series }: { series: Series[] }) {
  if (isHeatTable(series)) return <HeatTable series={series} />;
  return (
    <Suspense fallback={<p className="muted">Drawing…</p>}>
      <LinePlot series={series} />
    </Suspense>
  );
}

function Table({ columns, rows }: { columns: string[]; rows: Record<string, unknown>[] }) {
  return (
    <div className="table-scroll">
      <table>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column} scope="col" className={typeof rows[0]?.[column] === "number" ? "numeral" : undefined}>
                {words(column)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.slice(0, ITEMS_SHOWN).map((row, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: outputs are only ever appended.
            <tr key={index}>
              {columns.map((column) => (
                <td key={column} className={typeof row[column] === "number" ? "numeral" : undefined}>
                  {cell(row[column])}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      <More shown={ITEMS_SHOWN} total={rows.length} />
    </div>
  );
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return number(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(cell).join(", ");
  return String(value);
}

const isShort = (value: unknown) =>
  typeof value === "number" ||
  typeof value === "boolean" ||
  value === null ||
  (typeof value === "string" && value.length <= 80 && !value.includes("\n"));

function Fields({ fields, properties, depth }: { fields: [string, unknown][]; properties: unknown; depth: number }) {
  if (fields.length === 0) return <p className="muted">An empty object</p>;
  const schemas = isObject(properties) ? properties : {};
  // Facts first, in one list; what needs room follows, each under its name.
  const facts = fields.filter(([name, value]) => isShort(value) && !isFileField(value, schemas[name]));
  const parts = fields.filter(([name, value]) => !isShort(value) || isFileField(value, schemas[name]));
  return (
    <div className="output-fields">
      {facts.length === 0 ? null : (
        <dl className="facts">
          {facts.map(([name, value]) => (
            <div key={name}>
              <dt>{words(name)}</dt>
              <dd className={typeof value === "number" ? "numeral" : undefined}>{cell(value)}</dd>
            </div>
          ))}
        </dl>
      )}
      {parts.map(([name, value]) => {
        const schema = schemas[name];
        const view = (
          <OutputView key={name} value={value} depth={depth + 1} {...(isObject(schema) ? { schema } : {})} />
        );
        return depth < OPEN_DEPTH ? (
          <section key={name} className="output-part">
            <h4>{words(name)}</h4>
            {view}
          </section>
        ) : (
          <details key={name} className="output-part">
            <summary>{words(name)}</summary>
            {view}
          </details>
        );
      })}
    </div>
  );
}

function isFileField(value: unknown, schema: unknown): boolean {
  return classify(value, isObject(schema) ? schema : {}).kind === "file";
}

function More({ shown, total }: { shown: number; total: number }) {
  return total > shown ? (
    <p className="muted">and {(total - shown).toLocaleString("en-US")} more, all of them under JSON</p>
  ) : null;
}
