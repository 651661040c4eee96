/** `npm start -- --origins 2`: two hosts to the edge. One dies under load, and callers of a version that may run again notice nothing. */
import { rmSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isAlive, killHard, type Process, processTree } from "./lib/processes.ts";
import { type Ports, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const CLIENTS = 6;
/** Before the first host dies and after each death, so much must have succeeded. */
const SUCCEEDED_BETWEEN = 20;
const TOKENS = 20;
const EXPECTED = Array.from({ length: TOKENS }, (_, i) => `token ${i}\n`);
const LOAD_TIMEOUT_MS = 120_000;
const END_WITHIN_MS = 40_000;

const data = temporaryFolder();
const models = ["idempotent-tokens"];
const path = "/v1/deployments/cogway/pair";
let ports: Ports;
let system: System;

async function start(): Promise<System> {
  system = await System.start({ models, data, ports, origins: 2, byNpm: true });
  return system;
}

beforeAll(async () => {
  ports = await System.freePorts(2);
  await start();
  await system.untilPrepared(1);
});
afterAll(async () => {
  await system?.stop();
  rmSync(data, { recursive: true, force: true });
});

/** coglet's servers of each origin, one for each instance. */
function instancesOf(origin: Process): Process[] {
  return processTree(origin.pid).filter(({ command }) => command.includes("cog.server.http"));
}

interface Origin {
  id: string;
  state: string;
  instances: number;
}

/** Clients that create and wait in a loop, and what each of their predictions came to. */
class Load {
  readonly #outcomes: string[] = [];
  #isOver = false;
  readonly #clients = Array.from({ length: CLIENTS }, () => this.#loop());

  async #loop(): Promise<void> {
    while (!this.#isOver) this.#outcomes.push(await this.#once());
  }

  async #once(): Promise<string> {
    const { api } = system;
    const body = { input: { count: TOKENS, delay_ms: 20 } };
    const headers = { prefer: "wait=60" };
    const answer = await api.request<{ id: string }>("POST", `${path}/predictions`, { body, headers });
    if (answer.status !== 201 && answer.status !== 202) return `${answer.status} ${answer.text}`;
    const end = await api.untilEnd(answer.body, LOAD_TIMEOUT_MS);
    const isWhole = JSON.stringify(end.output) === JSON.stringify(EXPECTED);
    return end.status === "succeeded" && isWhole ? "succeeded" : `${end.status} ${end.error_code} ${end.error}`;
  }

  /** Resolves when so many more have succeeded. */
  async more(when: string): Promise<void> {
    const succeeded = (): number => this.#outcomes.filter((outcome) => outcome === "succeeded").length;
    const until = succeeded() + SUCCEEDED_BETWEEN;
    await waitFor(`${SUCCEEDED_BETWEEN} predictions ${when}`, LOAD_TIMEOUT_MS, () =>
      succeeded() >= until ? true : null,
    );
  }

  async end(): Promise<{ all: number; failed: string[] }> {
    this.#isOver = true;
    await Promise.all(this.#clients);
    return { all: this.#outcomes.length, failed: this.#outcomes.filter((outcome) => outcome !== "succeeded") };
  }
}

/** The host dies: the origin, and every model that runs below it. */
function killHost(origin: Process): void {
  for (const { pid } of processTree(origin.pid)) killHard(pid);
}

test("one host dies under load, then the other: a loop of clients on an idempotent version sees no failure", async () => {
  const { api } = system;
  const model = await api.request<{ latest_version: { id: string } }>("GET", "/v1/models/cogway/idempotent-tokens");
  const made = await api.request("POST", "/v1/deployments", {
    body: {
      ...{ name: "pair", model: "cogway/idempotent-tokens", version: model.body.latest_version.id },
      ...{ hardware: "cpu", min_instances: 2, max_instances: 4 },
    },
  });
  expect(made.status, made.text).toBe(200);
  const hosts = await waitFor("an instance on each of two origins", LOAD_TIMEOUT_MS, () => {
    const origins = system.origins();
    return origins.length === 2 && origins.every((origin) => instancesOf(origin).length === 1) ? origins : null;
  });

  const load = new Load();
  await load.more("before a host dies");
  for (const host of hosts) {
    killHost(host);
    await load.more("after a host died");
    await waitFor("both origins with an instance each", LOAD_TIMEOUT_MS, () =>
      system.origins().length === 2 && system.origins().every((origin) => instancesOf(origin).length > 0) ? true : null,
    );
  }
  const { all, failed } = await load.end();
  process.stderr.write(
    `origins: ${CLIENTS} clients, ${hosts.length} hosts killed one after the other, ${all} predictions, ${failed.length} failed\n`,
  );
  expect(failed).toEqual([]);
}, 300_000);

test("a host is drained under load: its instances are replaced on the other, nobody notices, and it takes work again", async () => {
  const { api } = system;
  const listed = async (): Promise<Origin[]> =>
    (await api.request<{ results: Origin[] }>("GET", "/admin/v1/origins")).body.results;
  const target = await waitFor("a host that runs something", LOAD_TIMEOUT_MS, async () =>
    (await listed()).find((origin) => origin.state === "ready" && origin.instances > 0),
  );
  const load = new Load();
  await load.more("before the drain");
  const of = `/admin/v1/origins/${target.id}`;
  const asked = performance.now();
  expect((await api.request("POST", `${of}/drain`)).status).toBe(200);
  await waitFor("the drained host", LOAD_TIMEOUT_MS, async () =>
    (await listed()).find((origin) => origin.id === target.id && origin.state === "drained"),
  );
  const took = Math.round(performance.now() - asked);
  await load.more("after the drain");
  expect((await api.request<Origin>("POST", `${of}/undrain`)).body.state).toBe("ready");
  const { all, failed } = await load.end();
  process.stderr.write(`origins: drained in ${took} ms under load, ${all} predictions, ${failed.length} failed\n`);
  expect(failed).toEqual([]);
}, 300_000);

test("what a killed launcher left of both is ended by the next start, and SIGTERM ends all", async () => {
  const before = system.processes().map(({ pid }) => pid);
  expect(system.origins()).toHaveLength(2);
  killHard(system.launcher().pid);
  const again = await start();
  await waitFor("the end of what the killed launcher left", END_WITHIN_MS, () => (before.some(isAlive) ? null : true));
  expect(again.origins()).toHaveLength(2);
  expect(await again.api.run("idempotent-tokens", { count: 2 })).toMatchObject({ status: "succeeded" });
  const pids = again.processes().map(({ pid }) => pid);
  const asked = performance.now();
  await again.signal("SIGTERM");
  await waitFor("the end of every process", END_WITHIN_MS, () =>
    pids.filter(isAlive).length + again.leftovers().length === 0 ? true : null,
  );
  expect(performance.now() - asked).toBeLessThan(END_WITHIN_MS);
}, 300_000);
