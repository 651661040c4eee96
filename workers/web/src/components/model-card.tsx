/** A model in the list, shown by what it really made. */
import { Loader } from "@cloudflare/kumo/components/loader";
import {
  FilmSlateIcon,
  LockSimpleIcon,
  PlayIcon,
  SealCheckIcon,
  ShieldCheckIcon,
  WarningIcon,
  WaveformIcon,
} from "@phosphor-icons/react";
import type { Model } from "../api.ts";
import { component } from "../form/input-schema.ts";
import { count, dollars, number, words } from "../format.ts";
import { classify, isObject, type Shape } from "../output/classify.ts";
import { FilePreview } from "../output/media.tsx";
import { modelPath } from "../route.ts";
import { Link } from "../router.tsx";

export function ModelCard({ model }: { model: Model }) {
  const version = model.latest_version;
  return (
    <li className="model-card" data-state={model.state}>
      <Link href={modelPath(model)}>
        <div className="model-card-preview">
          <Preview model={model} />
        </div>
        <div className="model-card-text">
          <h3>{model.title ?? words(model.name)}</h3>
          <p className="model-card-name">
            {model.owner}/{model.name}
          </p>
          {model.description === null ? null : <p className="model-card-description">{model.description}</p>}
          <p className="model-card-facts">
            {version === null ? <StateWord model={model} /> : <span>{count(model.run_count, "run", "runs")}</span>}
            <ModelMarks model={model} />
            {model.tags.slice(0, 3).map((tag) => (
              <span key={tag} className="tag">
                {tag}
              </span>
            ))}
          </p>
        </div>
      </Link>
    </li>
  );
}

/** What sets a model apart: that it is official, and what it costs then, or that not everybody sees it. */
export function ModelMarks({ model }: { model: Model }) {
  return (
    <>
      {model.unhealthy_since === null ? null : (
        <span
          className="mark-word state-word"
          data-state="failed"
          title="Its example is run every day, and has failed three times in a row or more"
        >
          <WarningIcon aria-hidden /> Unhealthy
        </span>
      )}
      {model.is_official ? (
        <span className="mark-word" title="Always warm, and its inputs and outputs stay as they are">
          <SealCheckIcon aria-hidden /> Official
        </span>
      ) : null}
      {model.pricing === null ? null : (
        <span>
          {dollars(model.pricing.price_micros)} /{" "}
          {model.pricing.per === 1 ? "" : `${model.pricing.per.toLocaleString("en")} × `}
          {words(model.pricing.unit).toLowerCase()}
        </span>
      )}
      {model.stable ? (
        <span className="mark-word" title="A push that would break its callers is refused, unless it is forced">
          <ShieldCheckIcon aria-hidden /> Stable
        </span>
      ) : null}
      {model.visibility === "private" ? (
        <span className="mark-word" title="Seen by its owner and the accounts it is shared with">
          <LockSimpleIcon aria-hidden /> Private
        </span>
      ) : null}
    </>
  );
}

function StateWord({ model }: { model: Model }) {
  if (model.state === "failed")
    return (
      <span className="state-word" data-state="failed">
        Cannot run
      </span>
    );
  if (model.state === "preparing")
    return (
      <span className="state-word" data-state="preparing">
        Being prepared
      </span>
    );
  return <span className="state-word">No version yet</span>;
}

function Preview({ model }: { model: Model }) {
  if (model.latest_version === null) {
    return (
      <div className="preview-note">
        {model.state === "failed" ? (
          <WarningIcon aria-hidden size={22} />
        ) : model.state === "preparing" ? (
          <Loader size="sm" />
        ) : null}
        <p>{model.state_reason ?? (model.state === "preparing" ? "Making its environment" : "Nothing to run yet")}</p>
      </div>
    );
  }
  const example = model.default_example;
  if (example === null || example.output === null || example.output === undefined) {
    return (
      <div className="preview-note">
        <PlayIcon aria-hidden size={22} />
        <p>{model.run_count === 0 ? "Not run yet" : "No example"}</p>
      </div>
    );
  }
  return <ShapePreview shape={classify(example.output, component(model.latest_version.openapi_schema, "Output"))} />;
}

/** In a card's drawing of numbers: the most bars, and the fewest that they are as wide as. */
const BARS_MAX = 48;
const BARS_MIN = 12;
/** Of a bar with the gap beside it, and of all of them, in units of the drawing. */
const BAR_PITCH = 4;
const BARS_HEIGHT = 64;

export function ShapePreview({ shape }: { shape: Shape }) {
  switch (shape.kind) {
    case "file":
      if (shape.media === "image") return <FilePreview url={shape.url} />;
      if (shape.media === "audio") return <WaveformIcon aria-hidden size={56} weight="thin" />;
      if (shape.media === "video") return <FilmSlateIcon aria-hidden size={48} weight="thin" />;
      return <p className="preview-text">A file</p>;
    case "files":
      return <ShapePreview shape={classify(shape.urls[0])} />;
    case "text":
      return <p className="preview-text">{shape.text.trim().slice(0, 280)}</p>;
    case "texts":
      return <p className="preview-text">{shape.texts.join("\n").slice(0, 280)}</p>;
    case "number":
      return <p className="preview-number">{number(shape.value)}</p>;
    case "boolean":
      return <p className="preview-number">{shape.value ? "Yes" : "No"}</p>;
    case "series":
      return <Bars values={shape.series[0]?.values ?? []} />;
    case "scores":
      return (
        <ul className="preview-scores">
          {shape.scores.slice(0, 4).map(({ label, score }) => (
            <li key={label}>
              <span>{label}</span>
              <meter min={0} max={1} value={score} aria-label={label} />
            </li>
          ))}
        </ul>
      );
    case "table":
      return (
        <p className="preview-text">
          {shape.rows
            .slice(0, 5)
            .map((row) => Object.values(row).join("  "))
            .join("\n")}
        </p>
      );
    case "fields":
      return <FieldsPreview fields={shape.fields} />;
    case "list":
    case "nothing":
      return <p className="preview-text muted">Structured output</p>;
  }
}

/** The member that says most: a file, numbers, a text; else the first few facts. */
function FieldsPreview({ fields }: { fields: [string, unknown][] }) {
  const shapes = fields.map(([, value]) => classify(value));
  const best =
    shapes.find((shape) => shape.kind === "file" || shape.kind === "files") ??
    shapes.find((shape) => shape.kind === "series" || shape.kind === "scores") ??
    shapes.find((shape) => shape.kind === "text" && shape.text.length > 24) ??
    shapes.find((shape) => shape.kind === "table");
  if (best !== undefined) return <ShapePreview shape={best} />;
  return (
    <p className="preview-text">
      {fields
        .filter(([, value]) => !isObject(value) && !Array.isArray(value))
        .slice(0, 5)
        .map(([name, value]) => `${words(name)}: ${String(value)}`)
        .join("\n")}
    </p>
  );
}

function Bars({ values }: { values: number[] }) {
  const shown = values.slice(0, BARS_MAX);
  const slots = Math.max(shown.length, BARS_MIN);
  const start = ((slots - shown.length) / 2) * BAR_PITCH;
  const high = Math.max(0, ...shown);
  const scale = BARS_HEIGHT / (high - Math.min(0, ...shown) || 1);
  return (
    <svg
      className="preview-bars"
      viewBox={`0 0 ${slots * BAR_PITCH} ${BARS_HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      {shown.map((value, index) => {
        const height = Math.max(1, Math.abs(value) * scale);
        const y = value > 0 ? high * scale - height : high * scale;
        // biome-ignore lint/suspicious/noArrayIndexKey: bars have no other name.
        return <rect key={index} x={start + index * BAR_PITCH} width={2.5} y={y} height={height} />;
      })}
    </svg>
  );
}
