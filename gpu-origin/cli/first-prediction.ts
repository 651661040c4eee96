/** Proof that the whole way works: waits for the edge's health, then runs one example through the public API, as any caller does. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { modelName } from "../models.ts";

const POLL_MS = 200;
const POLL_SLOW_MS = 1_000;
/** A cold boot and the setup of a model on a busy machine are in it. */
const PREDICTION_TIMEOUT_MS = 10 * 60_000;

const PredictionSchema = z.object({
  id: z.string(),
  status: z.string(),
  error: z.unknown(),
});

export interface Example {
  /** the model's name */
  name: string;
  input: Record<string, unknown>;
}

/** The example of a model folder; null where it has none. */
export function exampleOf(folder: string): Example | null {
  const path = join(folder, "example.json");
  if (!existsSync(path)) return null;
  try {
    const input = z.record(z.string(), z.unknown()).safeParse(JSON.parse(readFileSync(path, "utf8")));
    return input.success ? { name: modelName(folder), input: input.data } : null;
  } catch {
    return null;
  }
}

/** Resolves when /healthz says 200; `onReason` hears why it does not yet. Rejects with the signal. */
export async function untilHealthy(
  url: string,
  signal: AbortSignal,
  onReason: (reason: string) => void,
): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    const answer = await call(url, "/healthz", { signal });
    if (answer?.status === 200) return;
    const reason = z.object({ detail: z.string() }).safeParse(answer?.body);
    if (reason.success) onReason(reason.data.detail);
    await pause(POLL_MS, signal);
  }
}

/** How one prediction with the example's input ended. */
export async function predict(
  url: string,
  token: string,
  example: Example,
  signal: AbortSignal,
): Promise<{ ok: boolean; detail: string }> {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json", prefer: "wait" };
  const until = performance.now() + PREDICTION_TIMEOUT_MS;
  const body = JSON.stringify({ input: example.input });
  let answer = await call(url, `/v1/models/cogway/${example.name}/predictions`, {
    method: "POST",
    headers,
    body,
    signal,
  });
  for (;;) {
    const prediction = PredictionSchema.safeParse(answer?.body);
    if (!prediction.success)
      return { ok: false, detail: `${answer?.status ?? "no answer"} ${JSON.stringify(answer?.body)}` };
    const { id, status, error } = prediction.data;
    if (status === "succeeded") return { ok: true, detail: id };
    if (status !== "starting" && status !== "processing")
      return { ok: false, detail: `${status}: ${error ?? "no reason given"}` };
    if (performance.now() > until)
      return { ok: false, detail: `still ${status} after ${PREDICTION_TIMEOUT_MS / 60_000} minutes` };
    await pause(POLL_SLOW_MS, signal);
    answer = (await call(url, `/v1/predictions/${id}`, { headers, signal })) ?? answer;
  }
}

/** Null when nothing listens (yet, or for a moment). */
async function call(url: string, path: string, init: RequestInit): Promise<{ status: number; body: unknown } | null> {
  try {
    const response = await fetch(url + path, init);
    const text = await response.text();
    try {
      return { status: response.status, body: JSON.parse(text) };
    } catch {
      return { status: response.status, body: text };
    }
  } catch (error) {
    if (init.signal?.aborted) throw error;
    return null;
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}
