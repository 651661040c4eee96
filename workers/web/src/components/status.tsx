/** A prediction's state, always as a word and never by colour alone. */
import type { Prediction } from "../api.ts";

const WORDS: Record<Prediction["status"], string> = {
  starting: "Waiting",
  processing: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  canceled: "Canceled",
  aborted: "Aborted",
};

export function Status({ status }: { status: Prediction["status"] }) {
  return (
    <span className="status" data-status={status}>
      {WORDS[status]}
    </span>
  );
}
