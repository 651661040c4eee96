/**
 * What the edge adds to a warm no-op: the same prediction through Cogway and against raw coglet, interleaved in one run.
 *   npm run bench -- overhead [seconds a cell, default 4]
 * Prints p50, p99, mean and max at 1, 8, 16, 32 and 64 clients, predictions a second, the 409s that callers saw, commits and SQLite bytes a prediction, CPU
 * and memory. Aims are in bench/README.md; nothing is asserted here.
 */
import { execFileSync, spawn } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { Agent } from "node:http";
import { join } from "node:path";
import { closedLoop, send } from "./lib/load.ts";
import { ms, printMachine, printTable, signed, summarize } from "./lib/stats.ts";
import { startRawCoglet, startSystem, usage } from "./lib/system.ts";

const SECONDS = Number(process.argv[2] ?? 4);
const CLIENTS = [1, 8, 16, 32, 64];
/** raw coglet answers 409 while its slot is busy: the caller sends again after 2 ms, on the same clock (floors, section 2) */
const RETRY_MS = 2;
/** predictions over which bytes and CPU are averaged */
const COUNTED = 1000;

function bytesUnder(folder: string): number {
  let total = 0;
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    try {
      total += statSync(join(entry.parentPath, entry.name)).size;
    } catch {
      // A journal file that was removed meanwhile.
    }
  }
  return total;
}

/** Counts fsync and fdatasync of workerd over 200 sequential predictions; null where strace is not installed. */
async function fsyncsPerPrediction(pid: number, one: (agent: Agent) => Promise<void>): Promise<number | null> {
  try {
    execFileSync("strace", ["-V"], { stdio: "ignore" });
  } catch {
    return null;
  }
  const tracer = spawn("strace", ["-f", "-c", "-e", "trace=fsync,fdatasync", "-p", String(pid)], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let report = "";
  const attached = new Promise<void>((resolve) => {
    tracer.stderr.on("data", (chunk: Buffer) => {
      report += chunk.toString();
      if (report.includes("attached")) resolve();
    });
  });
  await attached;
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let i = 0; i < 200; i++) await one(agent);
  agent.destroy();
  const ended = new Promise((resolve) => tracer.once("exit", resolve));
  tracer.kill("SIGINT");
  await ended;
  let calls = 0;
  for (const line of report.split("\n")) {
    const match = /^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+).*\b(?:fsync|fdatasync)\s*$/.exec(line);
    if (match !== null) calls += Number(match[1]);
  }
  return calls / 200;
}

// Room for one instance: one slot, as raw coglet has.
const { url, headers, system } = await startSystem(["noop"], { COGWAY_INSTANCES_MAX: "1" });
try {
  const createUrl = new URL(`${url}/v1/models/cogway/noop/predictions`);
  const body = JSON.stringify({ input: { text: "hello" } });
  const waiting = { ...headers, prefer: "wait" };
  let unexpected = 0;
  const throughCogway = async (agent: Agent) => {
    const answer = await send(agent, createUrl, { method: "POST", headers: waiting, body });
    if (answer.status !== 201 || !answer.body.includes('"succeeded"')) {
      if (unexpected++ === 0) console.error(`unexpected: ${answer.status} ${answer.body.slice(0, 300)}`);
    }
  };
  const warm = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let i = 0; i < 300; i++) await throughCogway(warm);
  warm.destroy();
  const raw = await startRawCoglet(system, "noop", 1);
  let refused = 0;
  const rawUrl = new URL(`${raw.url}/predictions`);
  const againstCoglet = async (agent: Agent) => {
    for (;;) {
      const answer = await send(agent, rawUrl, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
      });
      if (answer.status !== 409) return;
      refused++;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  };
  printMachine();
  const rows: (string | number)[][] = [];
  for (const clients of CLIENTS) {
    refused = 0;
    const floor = await closedLoop(clients, SECONDS, againstCoglet);
    const own = await closedLoop(clients, SECONDS, throughCogway);
    const a = summarize(floor.latencies_ms);
    const b = summarize(own.latencies_ms);
    rows.push(
      [
        "raw coglet",
        clients,
        ms(a.p50),
        ms(a.p99),
        ms(a.mean),
        ms(a.max),
        Math.round(floor.rate),
        `${floor.fewest}-${floor.most}`,
        refused,
      ],
      [
        "Cogway",
        clients,
        ms(b.p50),
        ms(b.p99),
        ms(b.mean),
        ms(b.max),
        Math.round(own.rate),
        `${own.fewest}-${own.most}`,
        0,
      ],
      [
        "difference / ratio",
        clients,
        signed(b.p50 - a.p50),
        `${(b.p99 / a.p99).toFixed(2)}x`,
        `${(b.mean / a.mean).toFixed(2)}x`,
        `${(b.max / a.max).toFixed(2)}x`,
        `${(own.rate / floor.rate).toFixed(2)}x`,
        "",
        "",
      ],
    );
  }
  printTable(
    [
      "no-op, one slot",
      "clients",
      "p50 ms",
      "p99 ms",
      "mean ms",
      "max ms",
      "a second",
      "requests a connection",
      "409 seen",
    ],
    rows,
  );
  await raw.stop();
  if (unexpected > 0) console.log(`answers that were not a succeeded prediction: ${unexpected}`);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const before = { bytes: bytesUnder(system.data), ...usage(system) };
  for (let i = 0; i < COUNTED; i++) await throughCogway(agent);
  agent.destroy();
  const after = { bytes: bytesUnder(system.data), ...usage(system) };
  const perPrediction = (key: keyof typeof before): number => (after[key] - before[key]) / COUNTED;
  console.log(`bytes on disk a prediction, all of the data folder: ${Math.round(perPrediction("bytes"))}`);
  console.log(
    `CPU a prediction: ${(perPrediction("own_cpu_s") * 1000).toFixed(2)} ms of Cogway's, ${(perPrediction("models_cpu_s") * 1000).toFixed(2)} ms of coglet's`,
  );
  console.log(
    `memory: edge ${after.edge_mb.toFixed(0)} MB, origin ${after.origin_mb.toFixed(0)} MB, launcher ${after.launcher_mb.toFixed(0)} MB`,
  );
  const fsyncs = await fsyncsPerPrediction(system.edge().pid, throughCogway);
  console.log(
    `commits (fsync of workerd) a prediction: ${fsyncs === null ? "strace is not installed" : fsyncs.toFixed(2)}`,
  );
  printMachine();
} finally {
  await system.stop();
}
