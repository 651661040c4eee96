/**
 * Secret inputs on every road: what they hold may be in no answer, webhook, stream, log line or file of the data folder, while predictions live and after. The
 * model answers with a digest of its secret, so it is known to have got it in clear.
 */
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Api, type Model, type Prediction, type Problem, streamUrl } from "./lib/api.ts";
import { WebhookReceiver } from "./lib/receiver.ts";
import { StreamReader } from "./lib/sse.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

/** Above what is kept in rows. */
const LARGE_CHARACTERS = 300_000;
const REDACTED = "[REDACTED]";

/** Unlike in each of its forms. */
const SECRET = `canary+${randomBytes(18).toString("hex")}/end`;
const FORMS: Record<string, string> = {
  plain: SECRET,
  hex: Buffer.from(SECRET).toString("hex"),
  "percent-encoded": encodeURIComponent(SECRET),
  // As it looks inside of longer base64, at each of the three places where it can begin; the ends belong to neighbours too.
  ...Object.fromEntries(
    [0, 1, 2].map((before) => {
      const text = Buffer.concat([Buffer.alloc(before), Buffer.from(SECRET)]).toString("base64");
      return [`base64 from ${before}`, text.slice(4, -4)];
    }),
  ),
};

/** No secret: it is found where inputs are stored, so that looking for the other means something. */
const OPEN_TEXT = `open-${randomBytes(18).toString("hex")}`;

let system: System;
let receiver: WebhookReceiver;
let caller: Api;
/** everything that came out */
const seen: string[] = [];
beforeAll(async () => {
  receiver = await WebhookReceiver.start();
  system = await System.start({ models: ["secrets"], env: { COGWAY_ALLOW_PRIVATE_URLS: "127.0.0.1/32" } });
  caller = await system.api.newAccount("secretive");
});
afterAll(async () => {
  await system?.stop();
  receiver?.stop();
});

async function request<T = Prediction>(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; text: string; body: T }> {
  const answer = await caller.request<T>(method, path, { ...(body === undefined ? {} : { body }), headers });
  seen.push(answer.text, ...[...answer.headers].flat());
  return answer;
}

const PATH = "/v1/models/cogway/secrets/predictions";
const webhook = () => ({ webhook: receiver.url, webhook_events_filter: ["start", "output", "logs", "completed"] });

async function ended(prediction: Prediction, kind = "predictions"): Promise<Prediction> {
  return waitFor(`the end of ${prediction.id}`, 60_000, async () => {
    const { body } = await request("GET", `/v1/${kind}/${prediction.id}`);
    return body.completed_at === null ? null : body;
  });
}

const digest = (text: string): string => createHash("sha256").update(`${SECRET} ${text.length}`).digest("hex");

/** Files of the data folder that hold one of the texts. Folders of trainers go meanwhile: then it is looked for again. */
function filesWith(texts: Record<string, string>): Promise<string[]> {
  return waitFor("a look at every file", 30_000, () => {
    const files = readdirSync(system.data, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    return files.flatMap((file) => {
      const path = join(file.parentPath, file.name);
      const bytes = readFileSync(path);
      return Object.entries(texts).flatMap(([form, text]) => (bytes.includes(text) ? [`${form} in ${path}`] : []));
    });
  });
}

test("a prediction, its webhooks and its stream, small and large", async () => {
  for (const text of [OPEN_TEXT, "x".repeat(LARGE_CHARACTERS)]) {
    const { status, body } = await request("POST", PATH, { input: { key: SECRET, text }, ...webhook() });
    expect([status, body.input["key"]]).toEqual([201, REDACTED]);
    seen.push((await StreamReader.readAll(streamUrl(body))).text);
    const end = await ended(body);
    expect(end).toMatchObject({ status: "succeeded", output: digest(text), input: { key: REDACTED } });
    expect(end.logs).toContain(`using ${REDACTED} now`);
    await waitFor("its webhooks", 30_000, () =>
      receiver.about(body.id).some((call) => call.body.completed_at) ? true : null,
    );
    await request("GET", `/v1/predictions/${body.id}/webhooks`);
  }
  await request("GET", "/v1/predictions");
});

test("a repeat by its key, and another body under it", async () => {
  const headers = { "idempotency-key": "once", prefer: "wait" };
  const [first, again] = [
    await request("POST", PATH, { input: { key: SECRET } }, headers),
    await request("POST", PATH, { input: { key: SECRET } }, headers),
  ];
  expect(again.body.id).toBe(first.body.id);
  expect((await request("POST", PATH, { input: { key: `${SECRET}2` } }, headers)).status).toBe(422);
});

test("input that is refused, and a model that fails with its secret", async () => {
  const refused = await request<Problem>("POST", PATH, { input: { key: SECRET, count: "many" } });
  expect(refused.status).toBe(422);
  const wrong = await request<Problem>("POST", PATH, { input: { key: [SECRET] } });
  expect(wrong.status).toBe(422);
  const { body } = await request("POST", PATH, { input: { key: SECRET, fail: true }, ...webhook() });
  expect(await ended(body)).toMatchObject({
    status: "failed",
    error: expect.stringContaining(`${REDACTED} was refused`),
  });
});

test("a batch and its results", async () => {
  const inputs = Array.from({ length: 5 }, (_, i) => ({ key: SECRET, text: "t".repeat(i) }));
  type Batch = { id: string; completed_at: string | null };
  const { status, body } = await request<Batch>("POST", "/v1/batches", { version: "cogway/secrets", inputs });
  expect(status).toBe(201);
  await waitFor("the batch", 60_000, async () => {
    const now = await request<Batch>("GET", `/v1/batches/${body.id}`);
    return now.body.completed_at;
  });
  const results = await request("GET", `/v1/batches/${body.id}/results`);
  const outputs = results.text
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { output: string }).output);
  expect(outputs).toEqual(inputs.map(({ text }) => digest(text)));
});

test("a training that succeeds, and one that fails with its secret", async () => {
  const { body: model } = await request<Model>("GET", "/v1/models/cogway/secrets");
  await request("POST", "/v1/models", { owner: "secretive", name: "tuned", visibility: "private", hardware: "cpu" });
  for (const fail of [false, true]) {
    const path = `/v1/models/cogway/secrets/versions/${model.latest_version?.id}/trainings`;
    const made = await request("POST", path, {
      destination: "secretive/tuned",
      input: { key: SECRET, fail },
      ...webhook(),
    });
    expect(made.status, made.text).toBe(201);
    const end = await ended(made.body, "trainings");
    expect(end).toMatchObject({ status: fail ? "failed" : "succeeded", input: { key: REDACTED } });
    expect(end.logs).toContain(`training with ${REDACTED}`);
  }
  await request("GET", "/v1/models/secretive/tuned/versions");
});

test("nothing of it is anywhere", async () => {
  const out = [
    ...seen,
    ...receiver.calls.flatMap(({ text, headers }) => [text, JSON.stringify(headers)]),
    system.output,
  ];
  for (const [form, text] of Object.entries(FORMS))
    expect(
      out.filter((each) => each.includes(text)),
      form,
    ).toEqual([]);
  expect(await filesWith({ OPEN_TEXT })).not.toEqual([]);
  expect(await filesWith(FORMS)).toEqual([]);
  await system.signal("SIGTERM");
  expect(await filesWith(FORMS)).toEqual([]);
});
