/** What an id names: a prediction, a training or a batch. */
import { Loader } from "@cloudflare/kumo/components/loader";
import { ExplainedError } from "../components/explained.tsx";
import { findRun } from "../find-run.ts";
import { useApi, useLoaded } from "../hooks.ts";
import { runKindOf } from "../route.ts";
import { useSearch } from "../router.tsx";
import { BatchPage } from "./batch-page.tsx";
import { PredictionPage } from "./prediction-page.tsx";

export function RunPage({ id }: { id: string }) {
  const api = useApi();
  const isBatchFirst = runKindOf(useSearch()) === "batches";
  const run = useLoaded(`run ${id}`, () => findRun(api, id, isBatchFirst));
  if (run.data === undefined) {
    return run.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading
      </p>
    ) : (
      <ExplainedError error={run.error} onRetry={run.reload} />
    );
  }
  return run.data.kind === "batch" ? (
    <BatchPage first={run.data.batch} />
  ) : (
    <PredictionPage first={run.data.prediction} />
  );
}
