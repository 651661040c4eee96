/** Load over kept-alive connections of node:http, at a rate that does not wait for answers, and percentiles of what came of it. */
import { Agent, request } from "node:http";

export interface Reply {
  status: number;
  retry_after_s: number | null;
  body: string;
  took_ms: number;
}

interface Sent {
  method?: string;
  token: string;
  body?: unknown;
  headers?: Record<string, string>;
}

/**
 * One request; `status` 0 where the connection broke. workerd closes connections that were idle for 5 s; one that it closes just as it is used again is
 * answered by a reset, and the request is sent on another, as HTTP clients do.
 */
export async function send(agent: Agent, url: string, options: Sent): Promise<Reply> {
  const began = performance.now();
  for (;;) {
    const reply = await sendOnce(agent, url, options, began);
    if (reply !== "closed while idle") return reply;
  }
}

function sendOnce(
  agent: Agent,
  url: string,
  { method = "GET", token, body, headers = {} }: Sent,
  began: number,
): Promise<Reply | "closed while idle"> {
  const text = body === undefined ? "" : JSON.stringify(body);
  return new Promise((resolve) => {
    const broken = (error: Error): void =>
      resolve({ status: 0, retry_after_s: null, body: error.message, took_ms: performance.now() - began });
    const outgoing = request(
      url,
      {
        method,
        agent,
        headers: {
          authorization: `Bearer ${token}`,
          ...(text === "" ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) }),
          ...headers,
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", broken);
        response.on("end", () => {
          const after = response.headers["retry-after"];
          resolve({
            status: response.statusCode ?? 0,
            retry_after_s: after === undefined ? null : Number(after),
            body: Buffer.concat(chunks).toString(),
            took_ms: performance.now() - began,
          });
        });
      },
    );
    outgoing.on("error", (error) => {
      if (outgoing.reusedSocket && "code" in error && error.code === "ECONNRESET") resolve("closed while idle");
      else broken(error);
    });
    outgoing.end(text);
  });
}

/**
 * Calls `one` `rate` times a second for `seconds`, whether or not earlier calls were answered; resolves when all are. Where `most` are open, callers as
 * many as that have given up waiting to be connected: counted as unsent. `dueAt` is when a call should have begun (performance.now): who measures from there
 * leaves out nothing that this process or the system held back.
 */
export async function openLoop(
  rate: number,
  seconds: number,
  most: number,
  one: (n: number, dueAt: number) => Promise<void>,
): Promise<{ sent: number; unsent: number }> {
  const began = performance.now();
  const open = new Set<Promise<void>>();
  let [sent, unsent] = [0, 0];
  for (let n = 0; n < rate * seconds; n++) {
    const dueAt = began + (n / rate) * 1_000;
    const early = dueAt - performance.now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
    if (open.size >= most) {
      unsent++;
      // Answers come only while this loop lets them.
      if (unsent % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      continue;
    }
    sent++;
    const call = one(n, dueAt).finally(() => open.delete(call));
    open.add(call);
  }
  await Promise.all(open);
  return { sent, unsent };
}

/** How often each status was answered, with the code of its problem. */
export function countAnswers(replies: readonly Reply[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { status, body } of replies) {
    const code = status >= 400 ? ` ${/"code":"([^"]+)"/.exec(body)?.[1] ?? ""}` : "";
    counts[`${status}${code}`] = (counts[`${status}${code}`] ?? 0) + 1;
  }
  return counts;
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

/** `p50 / p99 / max` in milliseconds, with how many there are. */
export function latencies(values: readonly number[]): string {
  const [p50, p99, max] = [percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)];
  return `${p50.toFixed(0)} / ${p99.toFixed(0)} / ${max.toFixed(0)} ms (${values.length})`;
}

export function kept(maxSockets: number): Agent {
  return new Agent({ keepAlive: true, maxSockets });
}
