/** Tells the counters of models what ran here, and how. A report keeps its number until it is acknowledged, so it counts once. */
import { laneName } from "../schema/lanes.ts";
import type { Alarms } from "./alarms.ts";
import type { DeploymentHistory } from "./deployment-history.ts";
import type { DeploymentQueue } from "./deployment-queue.ts";
import { runCounter, searchStub } from "./stubs.ts";

/** So often at most a counter is told. */
const RUN_REPORT_MS = 10_000;

/** What reporting has of its object. */
export interface RunReporter {
  env: Env;
  queue: DeploymentQueue;
  history: DeploymentHistory;
  alarms: Pick<Alarms<"runs">, "setNoLaterThan">;
  write: <T>(change: (now: number) => T) => Promise<T>;
}

/** Call inside a write. */
export function reportRunsSoon({ alarms }: RunReporter, now: number): void {
  alarms.setNoLaterThan("runs", now + RUN_REPORT_MS);
}

/** One report of one model; others follow at the next deadline. */
export async function reportRuns(reporter: RunReporter): Promise<void> {
  const { env, queue, history, write } = reporter;
  const report = await write(() => {
    const { report: underWay, runs, last_report_seq } = queue.facts();
    const model = Object.keys(runs)[0] ?? history.nextModel();
    if (underWay !== null || model === null) return underWay;
    const { [model]: count = 0, ...others } = runs;
    const next = { model, seq: last_report_seq + 1, runs: count, histories: history.take(model) };
    queue.saveFacts({ report: next, runs: others, last_report_seq: next.seq });
    return next;
  });
  if (report === null) return;
  const { model, ...told } = report;
  const deployment_key = laneName(queue.spec().deployment_key, queue.facts().lane);
  const total = await runCounter(env, model).add({ deployment_key, ...told });
  // For the ranking of search alone: what is lost here comes with the next report.
  await searchStub(env)
    .counted(model, total)
    .catch(() => undefined);
  await write((now) => {
    queue.saveFacts({ report: null });
    if (Object.keys(queue.facts().runs).length > 0 || history.nextModel() !== null) reportRunsSoon(reporter, now);
  });
}
