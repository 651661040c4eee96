/** One call of a receiver. The address was judged by its text when it was given; where a name leads is judged by the network that the call leaves through. */
import { errorOfStatus, parseRetryAfter, type WebhookError } from "../schema/webhooks.ts";

/** From the request to the head of the answer. Receivers should answer within a few seconds, and work afterwards. */
const CALL_TIMEOUT_MS = 10_000;

export interface CallResult {
  /** epoch milliseconds of the request */
  at: number;
  duration_ms: number;
  status: number | null;
  error: WebhookError | null;
  /** what the receiver asked for */
  retry_after_ms: number | null;
}

/** Posts `body`. Never rejects. The answer's body is not read: nothing of it is shown to anybody. */
export async function callWebhook(url: string, headers: Record<string, string>, body: string): Promise<CallResult> {
  const at = Date.now();
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers,
      body,
      // A redirect is an answer like any other, and a failure.
      redirect: "manual",
      signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
    });
    const now = Date.now();
    const { status } = answer;
    const retry_after_ms = parseRetryAfter(answer.headers.get("retry-after"), now);
    await answer.body?.cancel().catch(() => undefined);
    return { at, duration_ms: now - at, status, error: errorOfStatus(status), retry_after_ms };
  } catch (error) {
    const isTimeout = error instanceof Error && (error.name === "TimeoutError" || error.name === "AbortError");
    const duration_ms = Date.now() - at;
    return { at, duration_ms, status: null, error: isTimeout ? "timeout" : "network", retry_after_ms: null };
  }
}
