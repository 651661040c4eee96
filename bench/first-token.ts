/**
 * The first streamed token: create, then read urls.stream, against raw coglet's own SSE of the same model.
 *   npm run bench -- first-token
 * Then 100 live streams of one concurrent (async) model by its token metric.
 */
import { Agent, get, request } from "node:http";
import { send } from "./lib/load.ts";
import { ms, printMachine, printTable, signed, summarize } from "./lib/stats.ts";
import { startRawCoglet, startSystem } from "./lib/system.ts";

const REPEATS = 200;
const STREAMS = 100;

/** Reads an SSE answer; calls `seen` for each `event: output`; resolves at the end with how many came. */
function readStream(agent: Agent, url: URL, seen: () => void): Promise<number> {
  return new Promise((resolve, reject) => {
    get(url, { agent, headers: { accept: "text/event-stream" } }, (response) => {
      let outputs = 0;
      let rest = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) {
          if (line !== "event: output") continue;
          outputs++;
          seen();
        }
      });
      response.on("end", () => resolve(outputs));
      response.on("error", reject);
    }).on("error", reject);
  });
}

const { url: base, headers, system } = await startSystem(["tokens", "tokens-async"]);
try {
  const agent = new Agent({ keepAlive: true, maxSockets: STREAMS + 8 });
  // Streams come over new connections, as readers do: on a used one the kernel holds back coglet's first small packets for 40 ms (delayed ACK).
  const fresh = new Agent({ keepAlive: false });
  const create = async (model: string, input: Record<string, unknown>): Promise<URL> => {
    const answer = await send(agent, new URL(`${base}/v1/models/cogway/${model}/predictions`), {
      method: "POST",
      headers,
      body: JSON.stringify({ input }),
    });
    if (answer.status >= 300) throw new Error(`${answer.status} ${answer.body.slice(0, 300)}`);
    return new URL((JSON.parse(answer.body) as { urls: { stream: string } }).urls.stream);
  };
  const few = { count: 5, delay_ms: 0 };
  const throughCogway = async (): Promise<number> => {
    const start = performance.now();
    let first = 0;
    const url = await create("tokens", few);
    await readStream(fresh, url, () => {
      first ||= performance.now() - start;
    });
    return first;
  };
  for (let i = 0; i < 30; i++) await throughCogway();
  const raw = await startRawCoglet(system, "tokens", 1);
  const againstCoglet = (): Promise<number> =>
    new Promise((resolve, reject) => {
      const start = performance.now();
      let first = 0;
      const body = JSON.stringify({ input: few });
      const outgoing = request(
        new URL(`${raw.url}/predictions`),
        {
          method: "POST",
          agent: fresh,
          headers: {
            accept: "text/event-stream",
            "content-type": "application/json",
            "content-length": String(body.length),
          },
        },
        (response) => {
          response.setEncoding("utf8");
          response.on("data", (chunk: string) => {
            if (chunk.includes("event: output")) first ||= performance.now() - start;
          });
          response.on("end", () => resolve(response.statusCode === 200 ? first : Number.NaN));
          response.on("error", reject);
        },
      );
      outgoing.on("error", reject);
      outgoing.end(body);
    });
  printMachine();
  const floor: number[] = [];
  const own: number[] = [];
  for (let i = 0; i < REPEATS; i++) {
    for (;;) {
      const value = await againstCoglet();
      if (!Number.isNaN(value)) {
        floor.push(value);
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    own.push(await throughCogway());
  }
  await raw.stop();
  const a = summarize(floor);
  const b = summarize(own);
  printTable(
    ["first token, 1 client", "p50 ms", "p99 ms", "mean ms", "max ms"],
    [
      ["raw coglet", ms(a.p50), ms(a.p99), ms(a.mean), ms(a.max)],
      ["Cogway (create, then stream)", ms(b.p50), ms(b.p99), ms(b.mean), ms(b.max)],
      ["difference", signed(b.p50 - a.p50), signed(b.p99 - a.p99), signed(b.mean - a.mean), ""],
    ],
  );
  // 100 streams at once of one async model: 200 tokens, 10 ms apart; ideal 10,000 tokens a second.
  const warmUrl = await create("tokens-async", { count: 5, delay_ms: 1 });
  await readStream(fresh, warmUrl, () => undefined);
  const firsts: number[] = [];
  const start = performance.now();
  const counts = await Promise.all(
    Array.from({ length: STREAMS }, async () => {
      const sent = performance.now();
      let first = 0;
      const url = await create("tokens-async", { count: 200, delay_ms: 10 });
      const outputs = await readStream(fresh, url, () => {
        first ||= performance.now() - sent;
      });
      firsts.push(first);
      return outputs;
    }),
  );
  const seconds = (performance.now() - start) / 1000;
  const total = counts.reduce((sum, count) => sum + count, 0);
  const c = summarize(firsts);
  printTable(
    [
      "100 streams of one async model",
      "tokens",
      "lost",
      "tokens a second",
      "of the ideal 10,000",
      "first token p50 ms",
      "p99 ms",
    ],
    [
      [
        "Cogway",
        total,
        STREAMS * 200 - total,
        Math.round(total / seconds),
        (total / seconds / 10_000).toFixed(2),
        ms(c.p50),
        ms(c.p99),
      ],
    ],
  );
  agent.destroy();
  printMachine();
} finally {
  await system.stop();
}
