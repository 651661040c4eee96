/**
 * One stream, many readers: 1, 100 and 1,000 readers at 10 and at 50 events a second. The model puts the time into each token, so the delay is from the
 * model's own yield to the reader, on one clock (one machine).
 *   npm run bench -- fan-out
 */
import { Agent, get } from "node:http";
import { send } from "./lib/load.ts";
import { ms, printMachine, printTable, summarize } from "./lib/stats.ts";
import { startSystem, usage } from "./lib/system.ts";

const SECONDS = 5;

const { url: base, headers, system } = await startSystem(["tokens"]);
try {
  const agent = new Agent({ keepAlive: false, maxSockets: 2000 });
  printMachine();
  const rows: (string | number)[][] = [];
  for (const rate of [10, 50]) {
    for (const readers of [1, 100, 1000]) {
      const count = SECONDS * rate;
      // The readers need a moment to connect, so the stream starts with a pause: nobody's first event is late for its own reason.
      const answer = await send(agent, new URL(`${base}/v1/models/cogway/tokens/predictions`), {
        method: "POST",
        headers,
        body: JSON.stringify({
          input: { count, delay_ms: 1000 / rate, stamp: true, start_delay_ms: readers > 100 ? 4000 : 1500 },
        }),
      });
      const url = new URL((JSON.parse(answer.body) as { urls: { stream: string } }).urls.stream);
      const delays: number[] = [];
      let delivered = 0;
      let finished = 0;
      const before = usage(system);
      await Promise.all(
        Array.from(
          { length: readers },
          () =>
            new Promise<void>((resolve, reject) => {
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
                      delivered++;
                      delays.push(now - Number(line.slice(6)));
                    }
                  }
                });
                response.on("end", resolve);
                response.on("error", reject);
              }).on("error", reject);
            }),
        ),
      );
      const after = usage(system);
      const s = summarize(delays);
      rows.push([
        rate,
        readers,
        ms(s.p50),
        ms(s.p99),
        ms(s.max),
        readers * count - delivered,
        readers - finished,
        (((after.own_cpu_s - before.own_cpu_s) * 1e6) / Math.max(1, delivered)).toFixed(0),
        after.own_mb.toFixed(0),
      ]);
    }
  }
  printTable(
    [
      "events a second",
      "readers",
      "p50 ms",
      "p99 ms",
      "max ms",
      "lost",
      "without done",
      "CPU µs a delivery",
      "memory MB",
    ],
    rows,
  );
  agent.destroy();
  printMachine();
} finally {
  await system.stop();
}
