/**
 * A closed-loop load tool: each client sends its next request when the last is answered, over one keep-alive connection of its own.
 * node:http, because npm undici waits about 1 ms on sequential requests (probes). Loopback only, bounded in time.
 */
import { Agent, request } from "node:http";

export interface Answer {
  status: number;
  body: string;
}

/** One request over `agent`; rejects on a network error. */
export function send(
  agent: Agent,
  url: URL,
  options: { method: string; headers?: Record<string, string>; body?: string },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      {
        method: options.method,
        agent,
        headers: {
          ...options.headers,
          ...(options.body === undefined ? {} : { "content-length": String(Buffer.byteLength(options.body)) }),
        },
      },
      (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          body += chunk;
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
        response.on("error", reject);
      },
    );
    outgoing.on("error", reject);
    outgoing.end(options.body);
  });
}

export interface LoadResult {
  /** latency of each request that was counted, milliseconds */
  latencies_ms: number[];
  /** requests a second over the counted time */
  rate: number;
  /** requests that each connection got, fewest and most: a starved connection shows here */
  fewest: number;
  most: number;
}

/** Runs `one` in a closed loop from `clients` clients for `seconds`, leaving out the first `warmupSeconds`. */
export async function closedLoop(
  clients: number,
  seconds: number,
  one: (agent: Agent) => Promise<void>,
  warmupSeconds = 1,
): Promise<LoadResult> {
  const start = performance.now();
  const from = start + warmupSeconds * 1000;
  const until = from + seconds * 1000;
  const latencies: number[] = [];
  const counts = await Promise.all(
    Array.from({ length: clients }, async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      let count = 0;
      while (performance.now() < until) {
        const sent = performance.now();
        await one(agent);
        const end = performance.now();
        if (sent >= from) {
          latencies.push(end - sent);
          count++;
        }
      }
      agent.destroy();
      return count;
    }),
  );
  return {
    latencies_ms: latencies,
    rate: latencies.length / seconds,
    fewest: Math.min(...counts),
    most: Math.max(...counts),
  };
}
