/**
 * The API without models: reads against a Worker that does nothing and one that makes a single empty object call, in one run.
 *   npm run bench -- api [seconds a cell, default 4] [predictions in the list, default 10000] [models in search, default 50000]
 * Aims are in bench/README.md; nothing is asserted here.
 */
import { Agent } from "node:http";
import { closedLoop, send } from "./lib/load.ts";
import { seedSearch } from "./lib/seed-search.ts";
import { ms, printMachine, printTable, summarize } from "./lib/stats.ts";
import { startSystem } from "./lib/system.ts";
import { startWorkerFloor } from "./lib/worker-floor.ts";

const SECONDS = Number(process.argv[2] ?? 4);
const PREDICTIONS = Number(process.argv[3] ?? 10_000);
const MODELS = Number(process.argv[4] ?? 50_000);
const CLIENTS = [1, 16];
/** Tokens that were never used before: each is one read of the database. */
const COLD_TOKENS = 400;

const { url, headers, system } = await startSystem(["noop"]);
const floor = await startWorkerFloor();
try {
  const createUrl = new URL(`${url}/v1/models/cogway/noop/predictions`);
  const body = JSON.stringify({ input: { text: "hello" } });
  let created = 0;
  let last = "";
  const agents = Array.from({ length: 16 }, () => new Agent({ keepAlive: true, maxSockets: 1 }));
  console.log(`making ${PREDICTIONS} predictions …`);
  await Promise.all(
    agents.map(async (agent) => {
      while (created < PREDICTIONS) {
        created += 1;
        const answer = await send(agent, createUrl, { method: "POST", headers: { ...headers, prefer: "wait" }, body });
        last = (JSON.parse(answer.body) as { id: string }).id;
      }
      agent.destroy();
    }),
  );
  console.log(`making ${MODELS} models …`);
  await seedSearch(system, MODELS);
  printMachine();

  const tokens: string[] = [];
  for (let i = 0; i < COLD_TOKENS; i++) {
    const { body: made } = await system.api.request<{ token: string }>("POST", "/v1/tokens", {
      body: { name: `cold ${i}`, scopes: ["account:read"] },
    });
    tokens.push(made.token);
  }
  const words = "upscale a blurry photo;speech to text;make a picture of a cat;remove noise from audio;read a receipt";
  const queries = words.split(";");
  let asked = 0;
  const get = (path: string) => async (agent: Agent) => {
    const answer = await send(agent, new URL(url + path), { method: "GET", headers });
    if (answer.status !== 200) throw new Error(`${path} answered ${answer.status} ${answer.body.slice(0, 300)}`);
  };
  const bare = (target: URL) => async (agent: Agent) => {
    await send(agent, target, { method: "GET", headers });
  };
  const doings = "upscale transcribe translate restore generate detect remove describe colorize separate".split(" ");
  const things = "photo speech video portrait noise text music document face scene subtitle sketch".split(" ");
  const another = (): string => {
    const n = asked++;
    return `${doings[n % doings.length]} ${things[n % things.length]} number ${n}`;
  };
  const cases: [string, (agent: Agent) => Promise<void>][] = [
    ["empty Worker", bare(floor.empty)],
    ["Worker with one empty object call", bare(floor.object)],
    ["token check, warm (get account)", get("/v1/account")],
    ["get prediction", get(`/v1/predictions/${last}`)],
    [`list 50 of ${PREDICTIONS}`, get("/v1/predictions?limit=50")],
    [
      `search ${MODELS} models, text`,
      (agent) => get(`/v1/search?query=${encodeURIComponent(queries[asked++ % queries.length] ?? "")}`)(agent),
    ],
    ["search, each query another", (agent) => get(`/v1/search?query=${encodeURIComponent(another())}`)(agent)],
  ];
  const rows: (string | number)[][] = [];
  for (const clients of CLIENTS) {
    let objectRate = 0;
    for (const [name, one] of cases) {
      const result = await closedLoop(clients, SECONDS, one);
      const { p50, p99, max } = summarize(result.latencies_ms);
      if (name.startsWith("Worker with")) objectRate = result.rate;
      const ratio = objectRate === 0 ? "" : `${((100 * result.rate) / objectRate).toFixed(0)} %`;
      rows.push([name, clients, ms(p50), ms(p99), ms(max), Math.round(result.rate), ratio]);
    }
  }
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const cold: number[] = [];
  for (const token of tokens) {
    const start = performance.now();
    await send(agent, new URL(`${url}/v1/account`), { method: "GET", headers: { authorization: `Bearer ${token}` } });
    cold.push(performance.now() - start);
  }
  agent.destroy();
  const { p50, p99, max } = summarize(cold);
  rows.push(["token check, cold", 1, ms(p50), ms(p99), ms(max), "", ""]);
  printTable(["request", "clients", "p50 ms", "p99 ms", "max ms", "a second", "of an empty object call"], rows);
  printMachine();
} finally {
  await floor.stop();
  await system.stop();
}
