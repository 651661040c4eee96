/** A batch: how far it is, a way to stop it, and its results. */
import { Button } from "@cloudflare/kumo/components/button";
import { DownloadSimpleIcon, StopIcon } from "@phosphor-icons/react";
import { useState } from "react";
import { type Batch, isBatchOver } from "../api.ts";
import { BatchProgress, endedInWords } from "../components/batch-progress.tsx";
import { CopyButton } from "../components/copy-button.tsx";
import { ExplainedError } from "../components/explained.tsx";
import { Status } from "../components/status.tsx";
import { dateTime, duration, number } from "../format.ts";
import { useApi, useInterval, useLoaded, useNow } from "../hooks.ts";
import { modelPath, runsPath } from "../route.ts";
import { Link } from "../router.tsx";
import { saveAs } from "../save-as.ts";
import { useTitle } from "../use-title.ts";

const REFRESH_MS = 1_000;

export function BatchPage({ first }: { first: Batch }) {
  useTitle("Batch");
  const api = useApi();
  const loaded = useLoaded(`batch ${first.id}`, () => api.batch(first.id));
  const batch = loaded.data ?? first;
  const isRunning = !isBatchOver(batch);
  useInterval(loaded.reload, isRunning ? REFRESH_MS : null);
  const [owner = "", name = ""] = batch.model.split("/");
  return (
    <>
      <p className="crumbs">
        <Link href={runsPath("batches")}>Batches</Link> <span aria-hidden>/</span>{" "}
        <Link href={modelPath({ owner, name })}>{batch.model}</Link>
      </p>
      <div className="title-row">
        <h1 className="prediction-id">{batch.id}</h1>
        <CopyButton text={batch.id} label="Copy id" />
      </div>
      <section className="panel batch" aria-label="Batch">
        <div className="panel-body">
          <Actions batch={batch} onChanged={loaded.reload} />
          {loaded.error === undefined ? null : <ExplainedError error={loaded.error} onRetry={loaded.reload} />}
          <BatchProgress counts={batch.counts} />
          <Counts counts={batch.counts} />
          <dl className="facts prediction-facts">
            <Fact name="Created" value={dateTime(batch.created_at)} />
            <Fact name="Version" value={batch.version.slice(0, 12)} />
            <Fact name="At once" value={`up to ${number(batch.max_concurrency)}`} />
            {batch.data_removed ? (
              <Fact name="Results are kept" value="Removed" />
            ) : batch.expires_at === null ? null : (
              <Fact name="Results are kept" value={`Until ${dateTime(batch.expires_at)}`} />
            )}
          </dl>
          {batch.data_removed ? (
            <p className="muted data-removed">
              Its inputs and results were removed when their retention time had passed.
            </p>
          ) : null}
        </div>
      </section>
    </>
  );
}

function Actions({ batch, onChanged }: { batch: Batch; onChanged: () => void }) {
  const api = useApi();
  const isRunning = !isBatchOver(batch);
  const now = useNow(isRunning ? REFRESH_MS : null);
  const [busy, setBusy] = useState<"cancel" | "download" | null>(null);
  const [refused, setRefused] = useState<unknown>(undefined);
  const act = async (what: "cancel" | "download", work: () => Promise<void>) => {
    setBusy(what);
    setRefused(undefined);
    try {
      await work();
    } catch (error) {
      setRefused(error);
    } finally {
      setBusy(null);
    }
  };
  const cancel = () =>
    act("cancel", async () => {
      await api.cancelBatch(batch.id);
      onChanged();
    });
  const download = () => act("download", async () => saveAs(await api.batchResults(batch.id), `${batch.id}.jsonl`));
  const end = batch.completed_at === null ? now : Date.parse(batch.completed_at);
  return (
    <>
      <div className="status-line">
        <span role="status">
          <Status status={batch.status} />
        </span>
        <span className="muted numeral">
          {endedInWords(batch.counts)}, {duration(end - Date.parse(batch.created_at))}
        </span>
        <span className="status-line-actions">
          {isRunning ? (
            <Button
              size="sm"
              icon={StopIcon}
              disabled={busy !== null || batch.status === "canceling"}
              onClick={() => void cancel()}
            >
              Cancel
            </Button>
          ) : batch.data_removed ? null : (
            <Button size="sm" icon={DownloadSimpleIcon} loading={busy === "download"} onClick={() => void download()}>
              Download results
            </Button>
          )}
        </span>
      </div>
      {refused === undefined ? null : <ExplainedError error={refused} />}
    </>
  );
}

const COUNTS = [
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["canceled", "Canceled"],
  ["running", "Running"],
  ["pending", "Waiting"],
] as const;

function Counts({ counts }: { counts: Batch["counts"] }) {
  return (
    <dl className="batch-counts">
      {COUNTS.map(([part, word]) => (
        <div key={part} data-part={part}>
          <dt>{word}</dt>
          <dd className="numeral">{number(counts[part])}</dd>
        </div>
      ))}
    </dl>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
