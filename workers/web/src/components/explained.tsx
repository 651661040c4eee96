/** Something went wrong: what, and what to do. */
import { Button } from "@cloudflare/kumo/components/button";
import { WarningCircleIcon } from "@phosphor-icons/react";
import type { Explanation } from "../explain.ts";
import { explainError } from "../explain.ts";

export function Explained({
  explanation,
  tone = "error",
  onRetry,
}: {
  explanation: Explanation;
  tone?: "error" | "note";
  onRetry?: () => void;
}) {
  return (
    <div className="explained" data-tone={tone} role={tone === "error" ? "alert" : undefined}>
      <WarningCircleIcon aria-hidden size={20} className="explained-icon" />
      <div>
        <p className="explained-title">{explanation.title}</p>
        <p className="explained-detail">{explanation.detail}</p>
        {onRetry === undefined ? null : (
          <Button type="button" size="sm" onClick={onRetry}>
            Try again
          </Button>
        )}
      </div>
    </div>
  );
}

export function ExplainedError({ error, onRetry }: { error: unknown; onRetry?: () => void }) {
  return <Explained explanation={explainError(error)} {...(onRetry === undefined ? {} : { onRetry })} />;
}
