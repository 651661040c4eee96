/** The caller's batches, newest first. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { useState } from "react";
import { type Batch, isBatchOver, type Page } from "../api.ts";
import { ago, dateTime } from "../format.ts";
import { useApi, useInterval, useLoaded, useNow } from "../hooks.ts";
import { batchPath } from "../route.ts";
import { Link } from "../router.tsx";
import { BatchProgress, endedInWords } from "./batch-progress.tsx";
import { ExplainedError } from "./explained.tsx";
import { Status } from "./status.tsx";

const LIVE_REFRESH_MS = 2_000;
const IDLE_REFRESH_MS = 15_000;
const CLOCK_MS = 10_000;

export function BatchList({ empty }: { empty: React.ReactNode }) {
  const api = useApi();
  const first = useLoaded("batches", () => api.batches());
  const [older, setOlder] = useState<Page<Batch>[]>([]);
  const [olderError, setOlderError] = useState<unknown>(undefined);
  const now = useNow(CLOCK_MS);
  const isLive = first.data?.results.some((batch) => !isBatchOver(batch)) === true;
  useInterval(first.reload, isLive ? LIVE_REFRESH_MS : IDLE_REFRESH_MS);
  if (first.data === undefined) {
    return first.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading batches
      </p>
    ) : (
      <ExplainedError error={first.error} onRetry={first.reload} />
    );
  }
  const all = [...first.data.results, ...older.flatMap((page) => page.results)];
  const rows = [...new Map(all.map((batch) => [batch.id, batch])).values()];
  const { next } = older.at(-1) ?? first.data;
  const loadOlder = async () => {
    if (next === null) return;
    try {
      const page = await api.batches(next);
      setOlder((pages) => [...pages, page]);
      setOlderError(undefined);
    } catch (error) {
      setOlderError(error);
    }
  };
  if (rows.length === 0) return empty;
  return (
    <>
      <ul className="prediction-list">
        {rows.map((batch) => (
          <li key={batch.id}>
            <Link href={batchPath(batch.id)} className="prediction-row">
              <Status status={batch.status} />
              <span className="prediction-row-model">{batch.model}</span>
              <span className="prediction-row-result batch-row-bar">
                <BatchProgress counts={batch.counts} />
              </span>
              <span className="prediction-row-ran numeral">{endedInWords(batch.counts)}</span>
              <time className="prediction-row-time" dateTime={batch.created_at} title={dateTime(batch.created_at)}>
                {ago(batch.created_at, now)}
              </time>
            </Link>
          </li>
        ))}
      </ul>
      {olderError === undefined ? null : <ExplainedError error={olderError} />}
      {next === null ? null : (
        <Button className="load-older" onClick={() => void loadOlder()}>
          Load older
        </Button>
      )}
    </>
  );
}
