/** What an account answers to a create that it does not admit, as a problem. */
import type { AdmitResult } from "../../durable-objects/account-contract.ts";
import { AppError } from "../../schema/problems.ts";
import { noteSpent } from "./spent-creates.ts";
import { throttled } from "./throttled.ts";

export type Refusal = Extract<AdmitResult, { kind: "limited" | "over_budget" | "key_reused" | "in_flight" }>;

export function refused(account: string, refusal: Refusal): AppError {
  switch (refusal.kind) {
    case "limited":
      noteSpent(account, refusal.retry_after_ms);
      return throttled("creates", refusal.limit, refusal.retry_after_ms);
    case "over_budget":
      return new AppError(refusal.code, refusal.detail);
    case "key_reused":
      return new AppError("idempotency.key_reused", "This Idempotency-Key was used with another request.");
    case "in_flight":
      return new AppError("idempotency.in_flight", "The first request with this Idempotency-Key is still running.", {
        retry_after: Math.ceil(refusal.retry_after_ms / 1_000),
      });
  }
}
