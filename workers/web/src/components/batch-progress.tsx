import type { Batch } from "../api.ts";
import { number } from "../format.ts";

const PARTS = ["succeeded", "failed", "canceled", "running"] as const;

export const endedOf = ({ succeeded, failed, canceled }: Batch["counts"]) => succeeded + failed + canceled;
export const endedInWords = (counts: Batch["counts"]) => `${number(endedOf(counts))} of ${number(counts.total)}`;

/** One bar: what ended, by how it ended, and what runs; the rest waits. */
export function BatchProgress({ counts }: { counts: Batch["counts"] }) {
  const total = Math.max(1, counts.total);
  let x = 0;
  return (
    <svg
      className="batch-bar"
      viewBox="0 0 100 1"
      preserveAspectRatio="none"
      role="img"
      aria-label={`${endedInWords(counts)} ended`}
    >
      {PARTS.map((part) => {
        const width = (counts[part] / total) * 100;
        const at = x;
        x += width;
        return <rect key={part} data-part={part} x={at} width={width} y={0} height={1} />;
      })}
    </svg>
  );
}
