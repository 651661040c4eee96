/** The state of a prediction, training, batch, build or model, always as a word and never by colour alone. */
import type { Batch, Build, Prediction } from "../api.ts";
import type { Doing } from "../model-doing.ts";

type AnyStatus = Prediction["status"] | Batch["status"] | Build["status"] | Doing;

const WORDS: Record<AnyStatus, string> = {
  starting: "Waiting",
  queued: "Waiting",
  processing: "Running",
  building: "Building",
  succeeded: "Succeeded",
  failed: "Failed",
  canceling: "Canceling",
  canceled: "Canceled",
  aborted: "Aborted",
  online: "Online",
  booting: "Booting",
  idle: "Idle",
  preparing: "Preparing",
  paused: "Paused",
};

export function Status({ status }: { status: AnyStatus }) {
  return (
    <span className="status" data-status={status}>
      {WORDS[status]}
    </span>
  );
}
