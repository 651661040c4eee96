/**
 * The hottest that one key can be: one version, one account, predictions that come at their times whether or not earlier ones were answered (open loop), and
 * latencies from when each was due, so that what a full system holds back counts. Finds the knee, the highest rate that the system keeps up with, then
 * measures there and at 70 % of it. The floor is raw coglet with the same model behind a perfect line: its client sends the next one when the slot is free.
 *   npm run bench -- hot [seconds a cell, default 8]
 */
import { Agent } from "node:http";
import { openLoop } from "../e2e/lib/load.ts";
import { type Answer, closedLoop, send } from "./lib/load.ts";
import { ms, printMachine, printTable, type Summary, summarize } from "./lib/stats.ts";
import { type RawCoglet, startRawCoglet, startSystem } from "./lib/system.ts";

const SECONDS = Number(process.argv[2] ?? 8);
/** A rate is kept up with when, at the end of its cell, fewer are open than come in this time. */
const BACKLOG_S = 0.25;
/** Open at once, at most; a cell that needs more is over the knee. */
const OPEN_MAX = 2_000;
const HALVINGS = 5;
const SHARES = [1, 0.7];
/** Floor and Cogway take turns, so that both meet the same machine. */
const ROUNDS = 2;
const BUSY = 409;
/** Clients of the closed loop that says where to look. */
const CLIENTS = 16;

type One = (agent: Agent) => Promise<void>;

interface Cell {
  latencies_ms: number[];
  /** open when the last one was due */
  backlog: number;
  /** answers a second, until the last one */
  rate: number;
  isHeld: boolean;
}

/** Offers `rate` a second for `seconds`. */
async function offer(one: One, rate: number, seconds: number): Promise<Cell> {
  const latencies: number[] = [];
  let [open, backlog] = [0, 0];
  const agent = new Agent({ keepAlive: true, maxSockets: OPEN_MAX });
  const began = performance.now();
  const { unsent } = await openLoop(rate, seconds, OPEN_MAX, async (_, dueAt) => {
    backlog = open++;
    await one(agent);
    open--;
    latencies.push(performance.now() - dueAt);
  });
  const took_s = (performance.now() - began) / 1_000;
  agent.destroy();
  const isHeld = unsent === 0 && backlog <= Math.max(1, rate * BACKLOG_S);
  return { latencies_ms: latencies, backlog, rate: latencies.length / took_s, isHeld };
}

/** The highest rate that is held, by halving between one that is and one that is not. */
async function findKnee(name: string, one: One, closed: number): Promise<number> {
  let [low, high] = [closed * 0.5, closed * 1.4];
  const tried: string[] = [];
  const isHeld = async (rate: number): Promise<boolean> => {
    const cell = await offer(one, rate, SECONDS);
    tried.push(`${rate.toFixed(0)} ${cell.isHeld ? "held" : `not (${cell.backlog} open)`}`);
    return cell.isHeld;
  };
  while (!(await isHeld(low))) [low, high] = [low / 2, low];
  for (let n = 0; n < HALVINGS; n++) {
    const middle = (low + high) / 2;
    if (await isHeld(middle)) low = middle;
    else high = middle;
  }
  console.log(
    `${name}: ${closed.toFixed(0)} a second by ${CLIENTS} clients in a closed loop; offered: ${tried.join(", ")}`,
  );
  return low;
}

const { url, headers, system } = await startSystem(["noop"], { COGWAY_INSTANCES_MAX: "1" });
let raw: RawCoglet | null = null;
try {
  const body = JSON.stringify({ input: { text: "hello" } });
  let unexpected = 0;
  const ask = async (agent: Agent, to: URL, more: Record<string, string>, isGood: (answer: Answer) => boolean) => {
    const answer = await send(agent, to, { method: "POST", headers: more, body }).catch((error: unknown) => ({
      ...{ status: 0, body: String(error) },
    }));
    if (!isGood(answer) && unexpected++ === 0)
      console.error(`unexpected: ${answer.status} ${answer.body.slice(0, 300)}`);
    return answer.status;
  };
  const create = new URL(`${url}/v1/models/cogway/noop/predictions`);
  const throughCogway: One = async (agent) => {
    const isGood = (answer: Answer) => answer.status === 201 && answer.body.includes('"succeeded"');
    await ask(agent, create, { ...headers, prefer: "wait=60" }, isGood);
  };
  const warm = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let n = 0; n < 300; n++) await throughCogway(warm);
  warm.destroy();
  raw = await startRawCoglet(system, "noop", 1);
  const predictions = new URL(`${raw.url}/predictions`);
  const json = { "content-type": "application/json" };
  const isAnswer = (answer: Answer) => answer.status === 200 || answer.status === BUSY;
  const toCoglet = async (agent: Agent): Promise<void> => {
    // The slot may still be busy for a moment after its answer.
    while ((await ask(agent, predictions, json, isAnswer)) === BUSY);
  };
  let line: Promise<void> = Promise.resolve();
  const againstCoglet: One = (agent) => {
    line = line.then(() => toCoglet(agent));
    return line;
  };
  printMachine();
  const subjects = [
    { name: "raw coglet, perfect line", one: againstCoglet, knee: 0, cells: new Map<number, Cell[]>() },
    { name: "Cogway", one: throughCogway, knee: 0, cells: new Map<number, Cell[]>() },
  ];
  for (const subject of subjects) {
    const closed = await closedLoop(CLIENTS, SECONDS / 2, subject.one);
    subject.knee = await findKnee(subject.name, subject.one, closed.rate);
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const share of SHARES) {
      for (const { one, knee, cells } of subjects) {
        cells.set(share, [...(cells.get(share) ?? []), await offer(one, knee * share, SECONDS)]);
      }
    }
  }
  const rows: (string | number)[][] = [];
  for (const share of SHARES) {
    const summaries: Summary[] = [];
    for (const { name, knee, cells } of subjects) {
      const of = cells.get(share) ?? [];
      const sum = summarize(of.flatMap(({ latencies_ms }) => latencies_ms));
      summaries.push(sum);
      rows.push([
        ...[name, share === 1 ? "knee" : `${share * 100} % of it`, (knee * share).toFixed(0)],
        (of.reduce((total, { rate }) => total + rate, 0) / of.length).toFixed(0),
        ...[ms(sum.p50), ms(sum.p99), ms(sum.mean), ms(sum.max)],
        Math.max(...of.map(({ backlog }) => backlog)),
      ]);
    }
    const [floor, own] = summaries;
    if (floor === undefined || own === undefined) continue;
    const times = (key: "p50" | "p99" | "mean" | "max"): string => `${(own[key] / floor[key]).toFixed(2)}x`;
    const rates = subjects.map(({ knee }) => knee);
    const ratio = `${((rates[1] ?? 0) / (rates[0] ?? 1)).toFixed(2)}x`;
    rows.push(["ratio", "", ratio, "", times("p50"), times("p99"), times("mean"), times("max"), ""]);
  }
  printTable(
    [
      "no-op, one slot",
      "at",
      "offered a second",
      "answered",
      "p50 ms",
      "p99 ms",
      "mean ms",
      "max ms",
      "open at the end",
    ],
    rows,
  );
  if (unexpected > 0) console.log(`answers that were not a succeeded prediction: ${unexpected}`);
  printMachine();
} finally {
  await raw?.stop();
  await system.stop();
}
