/** A backup of a running system, restored into an empty folder: everything is there, and what waited or ran goes on. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Api, type Page, type Prediction, streamUrl } from "./lib/api.ts";
import { mustRun, type Ran, run } from "./lib/run.ts";
import { StreamReader } from "./lib/sse.ts";
import { type Ports, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const ROOT = resolve(import.meta.dirname, "..");
const MODELS = ["noop", "tokens", "idempotent-tokens", "files", "slow"];

let folder: string;
let ports: Ports;
let system: System;
beforeAll(async () => {
  folder = temporaryFolder();
  ports = await System.freePorts();
  system = await System.start({ models: MODELS, data: join(folder, "data"), ports });
});
afterAll(async () => {
  await system?.stop();
  rmSync(folder, { recursive: true, force: true });
});

function command(name: "backup" | "restore", data: string, ...args: string[]): Promise<Ran> {
  const env = { ...process.env, NODE_OPTIONS: "", NODE_ENV: "", COGWAY_DATA: data };
  return run("npm", ["run", "--silent", name, "--", ...args], { cwd: ROOT, env });
}

interface Seen {
  predictions: Prediction[];
  ledger: unknown[];
  models: unknown[];
  file: string;
  stream: string[];
}

/** Of an account, what it can read. */
async function seenBy(api: Api, file: string, streamed: Prediction): Promise<Seen> {
  const rows = async (path: string): Promise<unknown[]> => (await api.request<Page<unknown>>("GET", path)).body.results;
  const listed = (await rows("/v1/predictions")) as Prediction[];
  const predictions = await Promise.all(listed.map((each) => api.get(each)));
  const bytes = Buffer.from(await (await fetch(file)).arrayBuffer());
  return {
    predictions,
    ledger: await rows("/v1/ledger"),
    models: (await rows("/v1/models")).map((model) => (model as { name: string }).name).toSorted(),
    file: createHash("sha256").update(bytes).digest("hex"),
    stream: (await StreamReader.readAll(streamUrl(streamed))).wire,
  };
}

test("a backup of a running system, restored into an empty folder, has everything, and what waited or ran goes on", async () => {
  const caller = await system.api.newAccount("keeper");
  const made = await caller.request("POST", "/v1/models", {
    body: { owner: "keeper", name: "kept", visibility: "private", hardware: "cpu" },
  });
  expect(made.status).toBe(201);
  await caller.run("noop", { text: "kept" });
  const streamed = await caller.run("tokens", { count: 30 });
  const withFile = await caller.run("files", {});
  const fileUrl = String(withFile.output);
  await waitFor("every charge", 30_000, async () => {
    const { body } = await caller.request<{ reserved_micros: number }>("GET", "/v1/account/billing");
    return body.reserved_micros === 0 ? true : null;
  });
  const before = await seenBy(caller, fileUrl, streamed);
  expect(before.predictions).toHaveLength(3);
  expect(before.ledger.length).toBeGreaterThan(0);

  const lost = await caller.create("tokens", { count: 400, delay_ms: 50 });
  const again = await caller.create("idempotent-tokens", { count: 200, delay_ms: 20 });
  await caller.untilRunning(again);
  await caller.untilRunning(lost);
  const archive = join(folder, "cogway.tar.gz");
  const backup = await command("backup", system.data, archive);
  expect(backup.output).toMatch(/stood still for \d+ ms/);
  expect(backup.code, backup.output).toBe(0);
  expect(statSync(archive).mode & 0o777).toBe(0o600);
  expect(readdirSync(system.data).filter((name) => name.startsWith("backup-"))).toEqual([]);
  // The system that was copied has not noticed.
  expect(await caller.untilEnd(again)).toMatchObject({ status: "succeeded" });
  await caller.cancel(lost);
  await system.stop();

  const data = join(folder, "restored");
  const restore = await command("restore", data, archive);
  expect(restore.code, restore.output).toBe(0);
  expect(statSync(join(data, "secrets.json")).mode & 0o777).toBe(0o600);
  expect(readFileSync(join(data, "token"), "utf8")).toBe(readFileSync(join(folder, "data/token"), "utf8"));
  system = await System.start({ models: MODELS, data, ports });
  const kept = new Api(system.url, caller.token);
  expect(await kept.untilEnd(again)).toMatchObject({ status: "succeeded", output: expect.any(Array) });
  expect(await kept.untilEnd(lost)).toMatchObject({ status: "failed", error_code: "origin.lost" });
  const after = await seenBy(kept, fileUrl, streamed);
  const own = new Set(before.predictions.map(({ id }) => id));
  expect(after.predictions.filter(({ id }) => own.has(id))).toEqual(before.predictions);
  expect(after.predictions).toHaveLength(5);
  expect(after.ledger.slice(0, before.ledger.length)).toEqual(before.ledger);
  expect(after).toMatchObject({ models: before.models, file: before.file, stream: before.stream });
  expect(await kept.run("noop", { text: "new" })).toMatchObject({ status: "succeeded", output: "new" });
}, 240_000);

test("nothing is written over, and an archive that was changed or cut off is refused whole", async () => {
  const archive = join(folder, "cogway.tar.gz");
  expect(await command("restore", system.data, archive)).toMatchObject({
    code: 1,
    output: expect.stringContaining("is not empty"),
  });
  expect(await command("backup", system.data, archive)).toMatchObject({
    code: 1,
    output: expect.stringContaining("exists already"),
  });
  const bytes = readFileSync(archive);
  const target = join(folder, "never");
  const cut = join(folder, "cut.tar.gz");
  writeFileSync(cut, bytes.subarray(0, bytes.length - 2_000));
  expect(await command("restore", target, cut)).toMatchObject({ code: 1 });
  const changed = await alteredCopy(archive);
  expect(await command("restore", target, changed)).toMatchObject({
    code: 1,
    output: expect.stringContaining("is not what was written"),
  });
  expect(existsSync(target)).toBe(false);
  expect(readdirSync(folder).filter((name) => name.includes("restoring"))).toEqual([]);
});

/** The same archive with one byte of the kept token changed, packed well: only the digests can tell. */
async function alteredCopy(archive: string): Promise<string> {
  const work = join(folder, "work");
  mkdirSync(work);
  const names = (await mustRun("tar", ["-tzf", archive])).trim().split("\n");
  await mustRun("tar", ["-xzf", archive, "-C", work]);
  const token = join(work, "data/token");
  writeFileSync(token, `x${readFileSync(token, "utf8").slice(1)}`);
  const changed = join(folder, "changed.tar.gz");
  await mustRun("tar", ["-czf", changed, "-C", work, ...names]);
  return changed;
}
