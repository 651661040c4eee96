/** A prediction as it goes: its state in words, its output as it comes, its logs, and a way to stop it. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { Tabs } from "@cloudflare/kumo/components/tabs";
import { StopIcon } from "@phosphor-icons/react";
import { useState } from "react";
import { hasEnded, isTraining, type Prediction } from "../api.ts";
import { explainEnd, explainWait } from "../explain.ts";
import { dollars, duration, number, words } from "../format.ts";
import { type FollowedPrediction, predictionsChanged, useApi, useNow } from "../hooks.ts";
import { isIterator } from "../output/classify.ts";
import { OutputView } from "../output/output-view.tsx";
import { progressOf } from "../progress.ts";
import { CopyButton } from "./copy-button.tsx";
import { Explained, ExplainedError } from "./explained.tsx";
import { Logs } from "./logs.tsx";
import { ScrollBox } from "./scroll-box.tsx";
import { Status } from "./status.tsx";
import { TrainedVersion } from "./trained-version.tsx";

const CLOCK_MS = 100;

interface Props {
  followed: FollowedPrediction;
  /** the version's Output component */
  outputSchema: Record<string, unknown>;
  /** after the status line */
  actions?: React.ReactNode;
}

export function PredictionView({ followed, outputSchema, actions }: Props) {
  const { prediction, live, isReached, error } = followed;
  const [view, setView] = useState<"output" | "json">("output");
  const isRunning = !hasEnded(prediction);
  const logs = prediction.logs.length >= live.logs.length ? prediction.logs : live.logs;
  const end = explainEnd(prediction);
  const output = outputNow(followed, outputSchema);
  const hasOutput = output !== null && output !== undefined;
  return (
    <div className="prediction">
      <StatusLine prediction={prediction} actions={actions} />
      {isReached ? null : (
        <p className="muted" role="status">
          The server does not answer. Trying again; nothing is lost.
        </p>
      )}
      {error === undefined ? null : <ExplainedError error={error} />}
      {end === null ? null : <Explained explanation={end} tone={prediction.status === "failed" ? "error" : "note"} />}
      {prediction.data_removed ? (
        <p className="muted data-removed">
          Its input, output, logs and files were removed when their retention time had passed. What is left says when it
          ran and how it ended. A longer time can be asked for when it is created, by the header{" "}
          <code>Cogway-Retention</code>.
        </p>
      ) : null}
      {hasOutput && !isRunning ? (
        <div className="output-tabs">
          <Tabs
            size="sm"
            tabs={[
              { value: "output", label: "Output" },
              { value: "json", label: "JSON" },
            ]}
            value={view}
            onValueChange={(value) => setView(value === "json" ? "json" : "output")}
          />
          <CopyButton text={() => copyText(output, outputSchema)} />
        </div>
      ) : null}
      {/* Read out once it is whole: a screen reader is not told every token. */}
      <section
        className="output"
        aria-label="Output"
        aria-live="polite"
        aria-busy={isRunning}
        data-status={prediction.status}
      >
        {hasOutput ? (
          view === "json" && !isRunning ? (
            <JsonText value={prediction} />
          ) : (
            <ResultView value={output} prediction={prediction} schema={outputSchema} />
          )
        ) : isRunning && isTraining(prediction) ? (
          <TrainingProgress logs={logs} />
        ) : isRunning ? (
          <div className="output-waiting" aria-hidden>
            <span />
            <span />
            <span />
          </div>
        ) : prediction.status === "succeeded" && !prediction.data_removed ? (
          <p className="muted">It ended without an output.</p>
        ) : null}
      </section>
      {isRunning && !isTraining(prediction) ? null : <Metrics metrics={prediction.metrics} />}
      <Logs
        text={logs}
        isOpen={prediction.status === "failed" || (isRunning && isTraining(prediction))}
        isGrowing={isRunning}
      />
    </div>
  );
}

function ResultView({
  value,
  prediction,
  schema,
}: {
  value: unknown;
  prediction: Prediction;
  schema: Record<string, unknown>;
}) {
  if (isTraining(prediction)) return <TrainedVersion output={value} />;
  return <OutputView value={value} schema={schema} isLive={!hasEnded(prediction)} />;
}

function TrainingProgress({ logs }: { logs: string }) {
  const progress = progressOf(logs);
  return (
    <div className="progress">
      <progress aria-label="Progress" {...(progress === null ? {} : { max: progress.total, value: progress.done })} />
      <p className="muted numeral">
        {progress === null ? "In progress" : `${number(progress.done)} of ${number(progress.total)}`}
      </p>
    </div>
  );
}

/** The stored output once there is one; before, what the stream brought, where the schema says that it comes piece by piece. */
function outputNow({ prediction, live }: FollowedPrediction, schema: Record<string, unknown>): unknown {
  if (hasEnded(prediction)) return prediction.output;
  if (isIterator(schema) && live.items.length > 0) return live.items;
  return prediction.output;
}

function copyText(output: unknown, schema: Record<string, unknown>): string {
  if (typeof output === "string") return output;
  if (Array.isArray(output) && schema["x-cog-array-display"] === "concatenate") return output.join("");
  return JSON.stringify(output, null, 2);
}

/** Told in the status line already. */
const TIMES = ["predict_time", "total_time"];

/** What the model itself measured. */
function Metrics({ metrics }: { metrics: Record<string, unknown> }) {
  const own = Object.entries(metrics).filter(
    ([name, value]) => !TIMES.includes(name) && (typeof value === "number" || typeof value === "string"),
  );
  if (own.length === 0) return null;
  return (
    <dl className="facts metrics">
      {own.map(([name, value]) => (
        <div key={name}>
          <dt>{words(name)}</dt>
          <dd className="numeral">{typeof value === "number" ? number(value) : String(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

/** More of a document than this is cut on the page; all of it is at its URL. */
const JSON_CHARACTERS_MAX = 20_000;

function JsonText({ value }: { value: unknown }) {
  const text = JSON.stringify(value, null, 2);
  return (
    <ScrollBox label="The prediction as JSON">
      {text.length > JSON_CHARACTERS_MAX
        ? `${text.slice(0, JSON_CHARACTERS_MAX)}\n… (${text.length.toLocaleString("en-US")} characters)`
        : text}
    </ScrollBox>
  );
}

function StatusLine({ prediction, actions }: { prediction: Prediction; actions: React.ReactNode }) {
  const api = useApi();
  const isRunning = !hasEnded(prediction);
  const [isCanceling, setCanceling] = useState(false);
  const [refused, setRefused] = useState<unknown>(undefined);
  const cancel = async () => {
    setCanceling(true);
    setRefused(undefined);
    try {
      await api.cancel(prediction);
      predictionsChanged();
    } catch (error) {
      setRefused(error);
      setCanceling(false);
    }
  };
  return (
    <>
      <div className="status-line">
        <span className="status-line-now">
          {isRunning ? (
            <span aria-hidden>
              <Loader size="sm" />
            </span>
          ) : null}
          {/* The words are announced when they change; the clock beside them is not. */}
          <span role="status">
            {isRunning && isCanceling ? (
              "Canceling"
            ) : prediction.status === "starting" ? (
              explainWait(prediction)
            ) : (
              <Status status={prediction.status} />
            )}
          </span>
        </span>
        <Elapsed prediction={prediction} />
        <span className="status-line-actions">
          {actions}
          {isRunning ? (
            <Button size="sm" icon={StopIcon} disabled={isCanceling} onClick={() => void cancel()}>
              Cancel
            </Button>
          ) : null}
        </span>
      </div>
      {refused === undefined ? null : <ExplainedError error={refused} />}
    </>
  );
}

function Elapsed({ prediction }: { prediction: Prediction }) {
  const isRunning = !hasEnded(prediction);
  const now = useNow(isRunning ? CLOCK_MS : null);
  const created = Date.parse(prediction.created_at);
  if (isRunning) return <span className="muted numeral">{duration(now - created)}</span>;
  const ran = prediction.metrics["predict_time"];
  const end = prediction.completed_at === null ? null : Date.parse(prediction.completed_at) - created;
  if (typeof ran !== "number" && end === null) return null;
  return (
    <span className="muted numeral">
      {typeof ran === "number" ? `ran ${duration(ran * 1_000)}` : ""}
      {end === null ? "" : `${typeof ran === "number" ? ", " : ""}${duration(end)} in all`}
      {typeof prediction.cost === "number" ? `, ${prediction.cost === 0 ? "free" : dollars(prediction.cost)}` : ""}
    </span>
  );
}
