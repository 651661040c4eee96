/**
 * Memory of edge and origin under load: at the start, then every 1,000 of 10,000 predictions (or for the minutes given), with the slope of the second half.
 *   npm run bench -- memory [minutes]
 */
import { closedLoop, send } from "./lib/load.ts";
import { printMachine, printTable } from "./lib/stats.ts";
import { startSystem, type Usage, usage } from "./lib/system.ts";

const MINUTES = process.argv[2] === undefined ? null : Number(process.argv[2]);
const PREDICTIONS = 10_000;

const { url: base, headers: own, system } = await startSystem(["noop"]);
try {
  const url = new URL(`${base}/v1/models/cogway/noop/predictions`);
  const headers = { ...own, prefer: "wait" };
  const body = JSON.stringify({ input: { text: "hello" } });
  printMachine();
  const samples: (Usage & { done: number; minutes: number })[] = [];
  let done = 0;
  const start = performance.now();
  const sample = () => {
    samples.push({ done, minutes: (performance.now() - start) / 60_000, ...usage(system) });
  };
  sample();
  while (MINUTES === null ? done < PREDICTIONS : performance.now() - start < MINUTES * 60_000) {
    const result = await closedLoop(
      8,
      MINUTES === null ? 2 : 20,
      async (agent) => {
        const answer = await send(agent, url, { method: "POST", headers, body });
        if (answer.status !== 201) throw new Error(`${answer.status} ${answer.body.slice(0, 200)}`);
      },
      0,
    );
    done += result.latencies_ms.length;
    sample();
  }
  printTable(
    ["predictions", "minutes", "edge MB", "origin MB", "launcher MB", "sum MB", "models MB"],
    samples.map((s) => [
      s.done,
      s.minutes.toFixed(1),
      ...[s.edge_mb, s.origin_mb, s.launcher_mb, s.own_mb, s.models_mb].map((mb) => mb.toFixed(0)),
    ]),
  );
  const half = samples.slice(Math.floor(samples.length / 2));
  const n = half.length;
  const meanX = half.reduce((sum, s) => sum + s.done, 0) / n;
  const meanY = half.reduce((sum, s) => sum + s.own_mb, 0) / n;
  const slope =
    half.reduce((sum, s) => sum + (s.done - meanX) * (s.own_mb - meanY), 0) /
    Math.max(
      1,
      half.reduce((sum, s) => sum + (s.done - meanX) ** 2, 0),
    );
  console.log(`slope of the second half: ${(slope * 1000).toFixed(2)} MB per 1,000 predictions`);
  printMachine();
} finally {
  await system.stop();
}
