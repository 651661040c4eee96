/**
 * One stream, many readers: 1, 100 and 1,000 readers at 10 and at 50 events a second, against a bare Durable Object that does the same (the floor). Each
 * token is its own time, so a delay runs from the model's own yield to the reader, on one clock (one machine); the floor has no model, no origin and no
 * batches before it.
 *   npm run bench -- fan-out
 */
import { Agent, get } from "node:http";
import { send } from "./lib/load.ts";
import { type ObjectFloor, startObjectFloor } from "./lib/object-floor.ts";
import { ms, printMachine, printTable, type Summary, summarize } from "./lib/stats.ts";
import { startSystem, usage } from "./lib/system.ts";

const SECONDS = 5;
const RATES = [10, 50];
const READERS = [1, 100, 1000];

interface Delivery extends Summary {
  delivered: number;
  finished: number;
}

/** Reads `url` with so many readers to the end that the server makes. */
async function readAll(agent: Agent, url: URL, readers: number): Promise<Delivery> {
  const delays: number[] = [];
  let finished = 0;
  const read = (): Promise<void> =>
    new Promise((resolve, reject) => {
      get(url, { agent, headers: { accept: "text/event-stream" } }, (response) => {
        let rest = "";
        let isOutput = false;
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          const now = performance.timeOrigin + performance.now();
          const lines = (rest + chunk).split("\n");
          rest = lines.pop() ?? "";
          for (const line of lines) {
            if (line.startsWith("event: ")) {
              isOutput = line === "event: output";
              if (line === "event: done") finished++;
            } else if (isOutput && line.startsWith("data: ")) {
              delays.push(now - Number(line.slice(6)));
            }
          }
        });
        response.on("end", resolve);
        response.on("error", reject);
      }).on("error", reject);
    });
  await Promise.all(Array.from({ length: readers }, read));
  return { ...summarize(delays), delivered: delays.length, finished };
}

/** The readers need a moment to connect, so a stream starts with a pause: nobody's first event is late for its own reason. */
function startDelay(readers: number): number {
  return readers > 100 ? 4000 : 1500;
}

async function measureFloor(agent: Agent, floor: ObjectFloor, rate: number, readers: number): Promise<Delivery> {
  const reading = readAll(agent, floor.url, readers);
  await floor.emit(SECONDS * rate, 1000 / rate, startDelay(readers));
  return reading;
}

const agent = new Agent({ keepAlive: false, maxSockets: 2000 });
const floors = new Map<string, Delivery>();
printMachine();
const floor = await startObjectFloor();
try {
  for (const rate of RATES) {
    for (const readers of READERS) floors.set(`${rate} ${readers}`, await measureFloor(agent, floor, rate, readers));
  }
} finally {
  await floor.stop();
}

const { url: base, headers, system } = await startSystem(["tokens"]);
try {
  const rows: (string | number)[][] = [];
  for (const rate of RATES) {
    for (const readers of READERS) {
      const count = SECONDS * rate;
      const input = { count, delay_ms: 1000 / rate, stamp: true, start_delay_ms: startDelay(readers) };
      const answer = await send(agent, new URL(`${base}/v1/models/cogway/tokens/predictions`), {
        method: "POST",
        headers,
        body: JSON.stringify({ input }),
      });
      const { urls } = JSON.parse(answer.body) as { urls: { stream: string } };
      const before = usage(system);
      const own = await readAll(agent, new URL(urls.stream), readers);
      const after = usage(system);
      const bare = floors.get(`${rate} ${readers}`) ?? own;
      rows.push([
        rate,
        readers,
        `${ms(bare.p50)} / ${ms(bare.p99)}`,
        ms(own.p50),
        ms(own.p99),
        ms(own.max),
        `${(own.p50 / bare.p50).toFixed(2)}x`,
        readers * count - own.delivered,
        readers - own.finished,
        (((after.own_cpu_s - before.own_cpu_s) * 1e6) / Math.max(1, own.delivered)).toFixed(0),
        (after.edge_mb + after.origin_mb).toFixed(0),
      ]);
    }
  }
  printTable(
    [
      "events a second",
      "readers",
      "floor p50 / p99 ms",
      "p50 ms",
      "p99 ms",
      "max ms",
      "p50 to floor",
      "lost",
      "without done",
      "CPU µs a delivery",
      "edge and origin MB",
    ],
    rows,
  );
  printMachine();
} finally {
  agent.destroy();
  await system.stop();
}
