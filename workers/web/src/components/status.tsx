/** The state of a prediction, training or batch, always as a word and never by colour alone. */
import type { Batch, Prediction } from "../api.ts";

type AnyStatus = Prediction["status"] | Batch["status"];

const WORDS: Record<AnyStatus, string> = {
  starting: "Waiting",
  processing: "Running",
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
