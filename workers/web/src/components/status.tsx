/** The state of a prediction, training, batch or build, always as a word and never by colour alone. */
import type { Batch, Build, Prediction } from "../api.ts";

type AnyStatus = Prediction["status"] | Batch["status"] | Build["status"];

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
};

export function Status({ status }: { status: AnyStatus }) {
  return (
    <span className="status" data-status={status}>
      {WORDS[status]}
    </span>
  );
}
