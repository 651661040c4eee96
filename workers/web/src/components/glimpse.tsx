/** A glance at what a prediction made, or why it made nothing: one line of a list. */
import { hasEnded, isTraining, type Prediction } from "../api.ts";
import { count, number, words } from "../format.ts";
import { classify, type Shape } from "../output/classify.ts";
import { FilePreview } from "../output/media.tsx";
import { progressOf } from "../progress.ts";
import { versionMade } from "./trained-version.tsx";

const CHARACTERS = 160;
const FILES = 4;

export function Glimpse({ prediction }: { prediction: Prediction }) {
  if (prediction.data_removed) return <span className="muted">Data removed</span>;
  if (prediction.status === "failed") return <span className="glimpse-error">{prediction.error ?? "Failed"}</span>;
  if (isTraining(prediction)) return <span>{ofTraining(prediction)}</span>;
  const shape = classify(prediction.output);
  if (shape.kind === "file" && shape.media === "image") return <FilePreview url={shape.url} />;
  if (shape.kind === "files") return shape.urls.slice(0, FILES).map((url) => <FilePreview key={url} url={url} />);
  return <span>{inWords(shape).slice(0, CHARACTERS)}</span>;
}

function ofTraining(training: Prediction): string {
  const progress = hasEnded(training) ? null : progressOf(training.logs);
  if (progress !== null) return `${number(progress.done)} of ${number(progress.total)}`;
  const made = versionMade(training.output);
  return made === null ? `of ${training.model}` : `Version ${made.id.slice(0, 12)}, of ${training.model}`;
}

const MEDIA = { image: "Picture", audio: "Sound", video: "Video", other: "File" };

function inWords(shape: Shape): string {
  switch (shape.kind) {
    case "nothing":
      return "";
    case "text":
      return shape.text.trim();
    case "texts":
      // Lists of predictions carry no schema: tokens and lines look alike, and both read well joined.
      return shape.texts.join("").trim();
    case "file":
      return MEDIA[shape.media];
    case "files":
      return count(shape.urls.length, "file", "files");
    case "number":
      return number(shape.value);
    case "boolean":
      return shape.value ? "Yes" : "No";
    case "series":
      return count(shape.series[0]?.values.length ?? 0, "number", "numbers");
    case "scores":
      return shape.scores
        .slice(0, 3)
        .map(({ label, score }) => `${label} ${Math.round(score * 100)} %`)
        .join(", ");
    case "table":
      return count(shape.rows.length, "row", "rows");
    case "list":
      return count(shape.items.length, "item", "items");
    case "fields":
      return shape.fields.map(([name, value]) => `${words(name)}: ${inWords(classify(value))}`).join(" · ");
  }
}
