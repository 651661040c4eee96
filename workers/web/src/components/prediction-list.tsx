/** The caller's predictions or trainings, newest first, kept fresh: at once after a change on this page, else in turns while any of them lives. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { useState } from "react";
import { hasEnded, type Page, type Prediction } from "../api.ts";
import { explainError } from "../explain.ts";
import { ago, dateTime, dollars, duration } from "../format.ts";
import { useApi, useInterval, useLoaded, useNow, useOnPredictionsChanged } from "../hooks.ts";
import { predictionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { ExplainedError } from "./explained.tsx";
import { Glimpse } from "./glimpse.tsx";
import { Status } from "./status.tsx";

/** While one of them lives, and when all have ended. */
const LIVE_REFRESH_MS = 2_000;
const IDLE_REFRESH_MS = 15_000;
const CLOCK_MS = 10_000;

/** `limit`: at most so many, without further pages. */
export function PredictionList({
  kind = "predictions",
  limit,
  empty,
}: {
  kind?: "predictions" | "trainings";
  limit?: number;
  empty: React.ReactNode;
}) {
  const api = useApi();
  const first = useLoaded(kind, () => api[kind]());
  const [older, setOlder] = useState<Page<Prediction>[]>([]);
  const [isLoadingOlder, setLoadingOlder] = useState(false);
  const [olderError, setOlderError] = useState<unknown>(undefined);
  const now = useNow(CLOCK_MS);
  const isLive = first.data?.results.some((prediction) => !hasEnded(prediction)) === true;
  useInterval(first.reload, isLive ? LIVE_REFRESH_MS : IDLE_REFRESH_MS);
  useOnPredictionsChanged(first.reload);

  if (first.data === undefined) {
    return first.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading {kind}
      </p>
    ) : (
      <ExplainedError error={first.error} onRetry={first.reload} />
    );
  }
  // The first page moves on while older ones stand: what is on both is shown once.
  const rows = [
    ...new Map([...first.data.results, ...older.flatMap((page) => page.results)].map((row) => [row.id, row])).values(),
  ];
  const shown = limit === undefined ? rows : rows.slice(0, limit);
  const next = limit === undefined ? (older.at(-1) ?? first.data).next : null;
  const loadOlder = async () => {
    if (next === null) return;
    setLoadingOlder(true);
    try {
      const page = await api[kind](next);
      setOlder((pages) => [...pages, page]);
      setOlderError(undefined);
    } catch (error) {
      setOlderError(error);
    } finally {
      setLoadingOlder(false);
    }
  };
  if (shown.length === 0) return empty;
  return (
    <>
      {first.error === undefined ? null : (
        <p className="stale" role="status">
          {explainError(first.error).title}. This list may be old.
        </p>
      )}
      <ul className="prediction-list">
        {shown.map((prediction) => (
          <Row key={prediction.id} prediction={prediction} now={now} />
        ))}
      </ul>
      {olderError === undefined ? null : <ExplainedError error={olderError} />}
      {next === null ? null : (
        <Button className="load-older" loading={isLoadingOlder} onClick={() => void loadOlder()}>
          Load older
        </Button>
      )}
    </>
  );
}

function costOf({ cost }: Prediction): string {
  if (typeof cost !== "number") return "";
  return cost === 0 ? "free" : dollars(cost);
}

function Row({ prediction, now }: { prediction: Prediction; now: number }) {
  const ran = prediction.metrics["predict_time"];
  return (
    <li>
      <Link href={predictionPath(prediction.id)} className="prediction-row">
        <Status status={prediction.status} />
        <span className="prediction-row-model">{prediction.destination ?? prediction.model}</span>
        <span className="prediction-row-result">
          <Glimpse prediction={prediction} />
        </span>
        <span className="prediction-row-ran numeral">
          <span>{typeof ran === "number" ? duration(ran * 1_000) : ""}</span>
          <span>{costOf(prediction)}</span>
        </span>
        <time className="prediction-row-time" dateTime={prediction.created_at} title={dateTime(prediction.created_at)}>
          {ago(prediction.created_at, now)}
        </time>
      </Link>
    </li>
  );
}
