/**
 * Cogway beside serving layers that keep no record of a request: LitServe, BentoML and Ray Serve, in one run, with a no-op and a model that takes 20 ms.
 *   npm run bench -- peers [seconds a cell, default 4]
 * The first run installs them into the cache. Aims are in bench/README.md; nothing is asserted here.
 */
import type { Agent } from "node:http";
import { closedLoop, send } from "./lib/load.ts";
import { installPeers, PEERS, startPeer } from "./lib/peers.ts";
import { ms, printMachine, printTable, summarize } from "./lib/stats.ts";
import { startSystem } from "./lib/system.ts";

const SECONDS = Number(process.argv[2] ?? 4);
const CLIENTS = [1, 16, 64];
const MODELS = [
  { name: "no-op", peer: { text: "hello" }, model: "noop", input: { text: "hello" } },
  {
    name: "20 ms",
    peer: { text: "hello", seconds: 0.02 },
    model: "tokens-async",
    input: { count: 1, start_delay_ms: 20 },
  },
];

interface Server {
  name: string;
  /** one request for the model of this index */
  one: (model: number, agent: Agent) => Promise<void>;
}

const rows: (string | number)[][] = [];
const own = new Map<string, number>();

async function measure({ name, one }: Server): Promise<void> {
  for (const [index, model] of MODELS.entries()) {
    for (const clients of CLIENTS) {
      const result = await closedLoop(clients, SECONDS, (agent) => one(index, agent));
      const { p50, p99 } = summarize(result.latencies_ms);
      const cell = `${model.name} ${clients}`;
      if (name === "Cogway") own.set(cell, result.rate);
      const ratio = name === "Cogway" ? "" : `${((own.get(cell) ?? 0) / result.rate).toFixed(2)}x`;
      rows.push([name, model.name, clients, ms(p50), ms(p99), Math.round(result.rate), ratio]);
    }
  }
}

installPeers();
printMachine();
const { url, headers, system } = await startSystem(["noop", "tokens-async"]);
try {
  const waiting = { ...headers, prefer: "wait" };
  const targets = MODELS.map(({ model, input }) => ({
    url: new URL(`${url}/v1/models/cogway/${model}/predictions`),
    body: JSON.stringify({ input }),
  }));
  const one: Server["one"] = async (model, agent) => {
    const target = targets[model];
    if (target === undefined) throw new Error("no such model");
    const answer = await send(agent, target.url, { method: "POST", headers: waiting, body: target.body });
    if (!answer.body.includes('"succeeded"')) throw new Error(`${answer.status} ${answer.body.slice(0, 300)}`);
  };
  for (const index of MODELS.keys()) await closedLoop(4, 1, (agent) => one(index, agent), 2);
  await measure({ name: "Cogway", one });
} finally {
  await system.stop();
}
for (const kind of PEERS) {
  const peer = await startPeer(kind);
  try {
    const bodies = MODELS.map((model) => JSON.stringify({ input: model.peer }));
    await measure({
      name: peer.name,
      one: async (model, agent) => {
        const answer = await send(agent, peer.url, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: bodies[model] ?? "",
        });
        if (!answer.body.includes("hello")) throw new Error(`${peer.name}: ${answer.status} ${answer.body}`);
      },
    });
  } finally {
    await peer.stop();
  }
}
printTable(["server", "model", "clients", "p50 ms", "p99 ms", "a second", "Cogway's rate to its"], rows);
console.log("Cogway keeps every request (several commits each) and gives it a log; the others keep nothing.");
printMachine();
