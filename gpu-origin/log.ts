/**
 * One-line JSON logs on stdout. They never hold inputs, outputs, tokens or a prediction's own log lines.
 *
 * Lines for the launcher, which renders them for people, carry a member `progress`:
 *   { step, model?, detail?, done?, total? }
 * `step` is one of ProgressStep. `done` and `total` count models. A line with step `fatal` is followed by exit 1; its `detail` is the one clear line
 * to show.
 */
import pino from "pino";

type ProgressStep =
  /** the edge knows this origin (`detail`: its id) */
  | "registered"
  /** a Python environment is being made; `detail`: what the installer does now */
  | "environment"
  /** the predictor's types are being read */
  | "schema"
  | "model.preparing"
  /** a model can run (`done` of `total`) */
  | "model.ready"
  /** a model cannot run; `detail` says why */
  | "model.failed"
  /** all models were tried */
  | "models.done"
  | "warning"
  | "draining"
  | "fatal";

export interface Progress {
  step: ProgressStep;
  model?: string;
  detail?: string;
  done?: number;
  total?: number;
}

export type Log = pino.Logger;

export function createLog(level = "info"): Log {
  return pino({ level, base: { service: "gpu-origin" }, timestamp: pino.stdTimeFunctions.isoTime });
}

export function logProgress(log: Log, progress: Progress): void {
  const text = [progress.step, progress.model, progress.detail].filter((part) => part !== undefined).join(" ");
  const isBad = progress.step === "model.failed" || progress.step === "fatal" || progress.step === "warning";
  log[isBad ? "warn" : "info"]({ progress }, text);
}
