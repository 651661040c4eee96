/**
 * State that the previous release wrote opens in this one. Its data folder lies here as an archive (previous/record.ts makes it at each release), so any
 * clone can run this; the system was killed while predictions ran and waited.
 */
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Api, type Page, type Prediction, streamUrl } from "./lib/api.ts";
import { mustRun } from "./lib/run.ts";
import { StreamReader } from "./lib/sse.ts";
import { System, temporaryFolder } from "./lib/system.ts";
import { DEPLOYMENT, MODELS, OWNER, PUBLIC_URL, type Recorded, STATE } from "./previous/recorded.ts";

/** The release that this one follows: an archive of another one would show nothing. */
const PREVIOUS_RELEASE = "b41daae";

const DAY_MS = 86_400_000;

let folder: string;
let system: System;
let recorded: Recorded;
let api: Api;
beforeAll(async () => {
  folder = temporaryFolder();
  await mustRun("tar", ["-xzf", STATE, "-C", folder]);
  recorded = JSON.parse(readFileSync(join(folder, "recorded.json"), "utf8")) as Recorded;
  renewDeadlines(join(folder, "data"));
  system = await System.start({
    models: MODELS,
    data: join(folder, "data"),
    env: {
      COGWAY_MODELS: MODELS.map((name) => join(folder, "models", name)).join(","),
      COGWAY_PUBLIC_URL: PUBLIC_URL,
    },
  });
  api = new Api(system.url, recorded.token);
});
afterAll(async () => {
  await system?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** What was alive would end by its deadline, a day after it was created: it is made as if created now, whenever the archive was recorded. */
function renewDeadlines(data: string): void {
  const objects = join(data, "edge/do/edge-PredictionObject");
  const files = readdirSync(objects).filter((name) => name.endsWith(".sqlite") && name !== "metadata.sqlite");
  let postponed = 0;
  for (const name of files) {
    const database = new DatabaseSync(join(objects, name));
    const hasRows = database.prepare("SELECT 1 FROM sqlite_master WHERE name = 'predictions'").get() !== undefined;
    if (hasRows) {
      const update = `UPDATE predictions SET due_at = ?1 + ${DAY_MS}, request = json_set(request, '$.created_at', ?1),
        progress = json_set(progress, '$.life.created_at', ?1) WHERE is_live = 1`;
      postponed += Number(database.prepare(update).run(Date.now()).changes);
    }
    database.close();
  }
  expect(postponed).toBe(3);
}

/** An address that was handed out, on the port where it is now. */
function here(given: string): string {
  return given.replace(PUBLIC_URL, system.url);
}

test("the archive is of the previous release", () => {
  expect(recorded.commit.slice(0, PREVIOUS_RELEASE.length)).toBe(PREVIOUS_RELEASE);
});

test("what ended is as it was: documents, list, stream and file", async () => {
  const { ended, stream, file } = recorded;
  // A release may add members to a document, and changes none.
  for (const before of ended) expect(await api.get(before)).toMatchObject(before);
  const { body } = await api.request<Page<Prediction>>("GET", "/v1/predictions");
  const ids = body.results.map(({ id }) => id);
  expect(ids.slice(-ended.length)).toEqual(ended.map(({ id }) => id).toReversed());
  const [, streamed, filed] = ended;
  if (streamed === undefined || filed === undefined) throw new Error("nothing was recorded");
  expect((await StreamReader.readAll(here(streamUrl(streamed)))).wire).toEqual(stream);
  expect(await (await fetch(here(String(filed.output)))).text()).toBe(file);
});

test("what ran runs again, and what waited runs", async () => {
  const { running, waiting } = recorded;
  const [text, tokens] = waiting;
  if (text === undefined || tokens === undefined) throw new Error("nothing was recorded");
  expect(await api.untilEnd(text)).toMatchObject({ status: "succeeded", output: "waited" });
  expect(await api.untilEnd(tokens)).toMatchObject({
    status: "succeeded",
    output: ["token 0\n", "token 1\n", "token 2\n", "token 3\n"],
  });
  const count = Number(running.input["count"]);
  const output = Array.from({ length: count }, (_, i) => `token ${i}\n`);
  const ended = await api.untilEnd(running);
  expect(ended, `${ended.error_code} ${ended.error}`).toMatchObject({ status: "succeeded", output });
  const reader = await StreamReader.readAll(here(streamUrl(running)));
  expect(reader.outputs()).toEqual(output);
});

test("tokens and deployments of then work, and what is new is there for them", async () => {
  const narrow = new Api(system.url, recorded.narrow_token);
  expect((await narrow.request("GET", "/v1/predictions")).status).toBe(200);
  expect((await narrow.tryCreate("noop", { text: "no" })).status).toBe(403);
  const path = `/v1/deployments/${OWNER}/${DEPLOYMENT}`;
  expect(await api.request("GET", path)).toMatchObject({ status: 200, body: { current_release: { number: 1 } } });
  const made = await api.request<Prediction>("POST", `${path}/predictions`, { body: { input: { count: 2 } } });
  expect(made.status, made.text).toBe(201);
  expect(await api.untilEnd(made.body)).toMatchObject({ status: "succeeded" });
  expect(await api.run("noop", { text: "new" })).toMatchObject({ status: "succeeded", cost: expect.any(Number) });
  expect((await api.request("GET", "/v1/account/billing")).status).toBe(200);
  const found = await api.request("GET", "/v1/search?query=noop");
  expect(found, found.text).toMatchObject({ status: 200, body: { models: [{ model: { name: "noop" } }] } });
  expect((await api.request("GET", "/v1/status")).status).toBe(200);
});
