/** The inputs of a prediction, as they were given. */
import { words } from "../format.ts";
import { isFileUrl, isObject } from "../output/classify.ts";
import { FilePreview } from "../output/media.tsx";
import { OutputView } from "../output/output-view.tsx";

export function InputView({ input }: { input: Record<string, unknown> }) {
  const entries = Object.entries(input);
  if (entries.length === 0) return <p className="muted">No inputs.</p>;
  return (
    <dl className="input-view">
      {entries.map(([name, value]) => (
        <div key={name}>
          <dt>{words(name)}</dt>
          <dd>
            <Value value={value} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Value({ value }: { value: unknown }) {
  if (typeof value === "string")
    return isFileUrl(value) ? <FilePreview url={value} /> : <span className="input-text">{value}</span>;
  if (Array.isArray(value) || isObject(value)) return <OutputView value={value} depth={1} />;
  if (typeof value === "boolean") return <>{value ? "yes" : "no"}</>;
  return <span className="numeral">{String(value)}</span>;
}
