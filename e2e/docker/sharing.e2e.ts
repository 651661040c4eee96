/** Who may share what (the design's table), one test a row, between accounts that never met: what containers ran for whom, and what one could find of another. */
import { rmSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Api, Prediction } from "../lib/api.ts";
import { Cli } from "../lib/cli.ts";
import { modelFolder, type System, temporaryFolder } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";
import { engine, instanceContainers, startDockerSystem } from "./lib/docker-system.ts";

let system: System;
let alice: Api;
let bob: Api;
beforeAll(async () => {
  system = await startDockerSystem({ models: ["noop"] });
  alice = await system.api.newAccount("alice");
  bob = await system.api.newAccount("bob");
  const home = temporaryFolder();
  const cli = new Cli(home, { COGWAY_URL: system.url, COGWAY_TOKEN: alice.token });
  try {
    for (const name of ["public", "private"]) await cli.ok(["push", modelFolder("escape"), `alice/${name}`]);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
  const published = await alice.request("PATCH", "/v1/models/alice/public", { body: { visibility: "public" } });
  expect(published.status).toBe(200);
  const shared = await alice.request("PUT", "/v1/models/alice/private/shares/bob");
  expect(shared.status).toBeLessThan(300);
  await waitFor("both models for bob", 20_000, async () => {
    const answers = ["public", "private"].map((name) => bob.request("GET", `/v1/models/alice/${name}`));
    return (await Promise.all(answers)).every(({ status }) => status === 200) ? true : null;
  });
});
afterAll(() => system?.stop());

async function run(caller: Api, model: string, input: Record<string, unknown> = {}): Promise<Prediction> {
  const answer = await caller.request<Prediction>("POST", `/v1/models/${model}/predictions`, {
    body: { input },
    headers: { prefer: "wait=60" },
  });
  if (answer.status >= 300) throw new Error(`${answer.status}: ${answer.text}`);
  const end = await caller.untilEnd(answer.body);
  expect(end).toMatchObject({ status: "succeeded" });
  return end;
}

/** What the model's probes find of these marks. */
async function find(
  caller: Api,
  model: string,
  marks: string[],
  secrets: string[],
): Promise<Record<string, string | null>> {
  const { output } = await run(caller, model, { probe: FILES, world: JSON.stringify({ marks, secrets }) });
  return JSON.parse(String(output));
}
/** Those of its probes that look for what others left, or that a later one would find. */
const FILES =
  "files_of_other_predictions,secrets_of_the_host,write_to_its_source,write_to_the_image,remount_root_writable";

function fileInput(mark: string): Record<string, unknown> {
  return { file: `data:text/plain;base64,${Buffer.from(mark).toString("base64")}` };
}

const OURS = /:alice\/(public|private)$/;

/** Ids of these models' containers, by the queue whose predictions they run. */
async function containers(deployment: RegExp): Promise<{ id: string; deployment: string }[]> {
  return (await instanceContainers(system)).filter((each) => deployment.test(each.deployment));
}

test("an instance of a public model is shared; what a prediction had goes with it", async () => {
  const mark = `of-alice-${crypto.randomUUID()}`;
  const { version } = await run(alice, "alice/public", fileInput(mark));
  const before = await containers(new RegExp(`^version:${version}:alice/public$`));
  expect(before).toHaveLength(1);
  const found = await find(bob, "alice/public", [mark], [alice.token, bob.token]);
  expect(found).toMatchObject({ files_of_other_predictions: null, secrets_of_the_host: null });
  expect(await containers(new RegExp(`^version:${version}:alice/public$`))).toEqual(before);
});

test("an instance of a private model is of one account, also where it is shared", async () => {
  const mark = `of-alice-${crypto.randomUUID()}`;
  const { version } = await run(alice, "alice/private", fileInput(mark));
  const one = await containers(new RegExp(`^version:${version}:.+:alice/private$`));
  expect(one).toHaveLength(1);
  const found = await find(bob, "alice/private", [mark], [alice.token]);
  expect(found).toMatchObject({ files_of_other_predictions: null, secrets_of_the_host: null });
  const two = await containers(new RegExp(`^version:${version}:.+:alice/private$`));
  expect(two).toHaveLength(2);
  expect(new Set(two.map(({ deployment }) => deployment)).size).toBe(2);
});

test("a prediction's logs are its caller's, and nobody else finds the prediction", async () => {
  const prediction = await run(alice, "alice/public");
  for (const other of [bob, system.api]) {
    expect((await other.request("GET", `/v1/predictions/${prediction.id}`)).status).toBe(404);
  }
});

test("weights, images and sources are read-only, whoever runs them", async () => {
  const found = await find(alice, "alice/private", [], []);
  expect(found).toMatchObject({ write_to_its_source: null, write_to_the_image: null, remount_root_writable: null });
  const mounts = await Promise.all(
    (await containers(OURS)).map(async ({ id }) => (await engine().getContainer(id).inspect()).Mounts),
  );
  expect(mounts.flat().filter(({ RW, Type }) => RW && Type !== "tmpfs")).toEqual([]);
});

test("networks and temporary folders are of one instance", async () => {
  const all = await containers(OURS);
  const details = await Promise.all(all.map(({ id }) => engine().getContainer(id).inspect()));
  const networks = details.flatMap(({ NetworkSettings }) => Object.keys(NetworkSettings.Networks));
  expect(new Set(networks).size).toBe(all.length);
  expect(details.every(({ HostConfig }) => HostConfig.IpcMode === "private" && HostConfig.PidMode === "")).toBe(true);
});
