/** Trainings as their callers see them: the real edge with its objects, D1 and R2, and an origin that does what a test says. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { deploymentStub } from "../durable-objects/stubs.ts";
import { withdrawVersion } from "../durable-objects/training-publish.ts";
import { TrainingPageSchema, TrainingSchema } from "../schema/api/predictions.ts";
import { fineTuneId } from "../schema/fine-tunes.ts";
import { newId } from "../schema/ids.ts";
import type { FileRef } from "../schema/origin-protocol.ts";
import { bodyDigest } from "../schema/request-signature.ts";
import { weightsRef } from "../schema/weights.ts";
import {
  aDestination,
  anAccount,
  anAnnounce,
  aTrainer,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

type Account = { id: string; username: string; token: string };

let origin: FakeOrigin;
let alice: Account;
let bob: Account;
/** versions: its weights go with each prediction; in setup; it has no trainer */
let trainer: string;
let setupTrainer: string;
let plain: string;

beforeAll(async () => {
  await theOperator();
  // Each training takes an instance, whose room only heartbeats would give back.
  origin = await FakeOrigin.join({ capacity: { instances: 100, memory_bytes: 8_000_000_000 } });
  trainer = await origin.announce(
    "trainer",
    aTrainer({ replicate_weights: { type: "string", format: "uri", nullable: true } }),
  );
  setupTrainer = await origin.announce("setup-trainer", aTrainer({}));
  plain = await origin.announce("plain", anAnnounce());
  [alice, bob] = await Promise.all([anAccount(), anAccount()]);
});

const INPUT = { train_data: "https://files.example/data.zip" };
const train = (
  body: unknown,
  { version = trainer, model = "cogway/trainer", token = alice.token, headers = {} as Record<string, string> } = {},
): Promise<Response> => call("POST", `/v1/models/${model}/versions/${version}/trainings`, { token, body, headers });

async function aTraining(destination: string, options: Parameters<typeof train>[1] = {}): Promise<string> {
  return (await predictionOf(await train({ destination, input: INPUT }, options))).id;
}

const get = async (id: string, token = alice.token) =>
  predictionOf(await call("GET", `/v1/trainings/${id}`, { token }));

/** The training ends well with these weights, as an origin tells it. */
async function trained(id: string, text: string): Promise<FileRef> {
  await origin.attemptOf(id);
  const bytes = new TextEncoder().encode(text);
  const headers = { "content-type": "text/plain", "content-length": String(bytes.length) };
  const put = await origin.send(
    "PUT",
    `/origin/v1/outputs/${id}/1/0/weights of it.txt`.replaceAll(" ", "%20"),
    bytes,
    headers,
  );
  const file = await put.json<FileRef>();
  const kept = await origin.send("POST", `/origin/v1/weights/${id}/1`, JSON.stringify(file));
  if (!kept.ok) throw new Error(await kept.text());
  await ended(id, { weights: file });
  return file;
}

const ended = (id: string, output: unknown) =>
  origin.events(id, 0, [
    { type: "started" },
    { type: "finished", status: "succeeded", output, metrics: {}, predict_time_s: 0.1 },
  ]);

describe("create", () => {
  it("starts the trainer on an instance of its own, with the trainer's inputs", async () => {
    const destination = await aDestination(alice);
    const body = { destination, input: { ...INPUT, key: "secret" } };
    const answer = await train(body);
    expect(answer.status).toBe(201);
    const training = TrainingSchema.parse(await predictionOf(answer));
    expect(answer.headers.get("location")).toBe(`${PUBLIC_URL}/v1/trainings/${training.id}`);
    expect(training).toMatchObject({
      status: "starting",
      model: "cogway/trainer",
      version: trainer,
      destination,
      input: { ...INPUT, steps: 10, key: "[REDACTED]" },
      output: null,
      urls: {
        get: `${PUBLIC_URL}/v1/trainings/${training.id}`,
        cancel: `${PUBLIC_URL}/v1/trainings/${training.id}/cancel`,
      },
    });
    const boot = await vi.waitUntil(() =>
      origin.boots.find((each) => each.deployment_key === `training:${training.id}`),
    );
    expect(boot).toMatchObject({ mode: "train", slots: 1, version_id: trainer, memory_bytes: 7_000_000 });
    expect((await origin.attemptOf(training.id)).input).toEqual({ ...INPUT, steps: 10, key: "secret" });
    await ended(training.id, null);
  });

  it("lets a key repeat it, and cancels it in time", async () => {
    const destination = await aDestination(alice);
    const headers = { "idempotency-key": newId(10), "cancel-after": "1h" };
    const [first, second] = [
      await train({ destination, input: INPUT }, { headers }),
      await train({ destination, input: INPUT }, { headers }),
    ];
    const training = await predictionOf(first);
    expect(await second.json()).toEqual(training);
    expect(training["deadline"]).toEqual(expect.any(String));
    await call("POST", `/v1/trainings/${training.id}/cancel`, { token: alice.token });
  });

  it.each(["cogway/trainer", "nobody/nothing", "malformed", "a/b/c", ""])(
    "finds no destination %o in the caller's account",
    async (destination) => {
      const problem = await problemOf(await train({ destination, input: INPUT }));
      expect(problem).toMatchObject({
        status: 404,
        code: "model.not_found",
        detail: expect.stringContaining("destination"),
      });
    },
  );

  it("finds no destination in another account", async () => {
    const destination = await aDestination(bob);
    expect(await problemOf(await train({ destination, input: INPUT }))).toMatchObject({ status: 404 });
  });

  it("names every fault of the input", async () => {
    const destination = await aDestination(alice);
    const problem = await problemOf(await train({ destination, input: { steps: 0, train_data: "nonsense" } }));
    expect(problem).toMatchObject({ status: 422, code: "input.invalid" });
    expect(problem.invalid_fields?.map((fault) => fault.field)).toEqual(["input.steps", "input.train_data"]);
  });

  it("refuses versions that have no trainer, or are not of this model", async () => {
    const destination = await aDestination(alice);
    const untrainable = await train({ destination, input: INPUT }, { model: "cogway/plain", version: plain });
    expect(await problemOf(untrainable)).toMatchObject({
      status: 422,
      code: "version.invalid",
      detail: expect.stringContaining("no train function"),
    });
    for (const version of [plain, "x", "0".repeat(64)]) {
      const unknown = await train({ destination, input: INPUT }, { version });
      expect(await problemOf(unknown)).toMatchObject({ status: 422, code: "version.invalid" });
    }
    const elsewhere = await train({ destination, input: INPUT }, { model: "cogway/none" });
    expect(await problemOf(elsewhere)).toMatchObject({ status: 404, code: "model.not_found" });
  });
});

describe("its end", () => {
  it("is seen once the destination has the new version, whose weights outlive the training's data", async () => {
    const destination = await aDestination(alice);
    const id = await aTraining(destination);
    const file = await trained(id, "weights one");
    const training = await get(id);
    const weights = { key: "", sha256: file.$cogway_file.sha256, size_bytes: 0 };
    const version = fineTuneId(trainer, weights);
    expect(training).toMatchObject({
      status: "succeeded",
      output: { version: `${destination}:${version}`, weights: expect.stringContaining(`/outputs/${id}/0/`) },
    });
    const row = await env.DB.prepare("SELECT * FROM versions WHERE id = ?").bind(version).first();
    expect(row).toMatchObject({ base_version_id: trainer, training_id: id, fast_booting: 1, train_memory_bytes: null });
    const { key } = JSON.parse(String(row?.["weights"]));
    expect(await (await env.FILES.get(key))?.text()).toBe("weights one");
    const model = await (await call("GET", `/v1/models/${destination}`, { token: alice.token })).json<WireModel>();
    expect(model).toMatchObject({ visibility: "private", latest_version: { id: version } });
    const { schemas } = model.latest_version.openapi_schema.components;
    expect(Object.keys(schemas)).toEqual(["Input", "Output"]);
    expect(Object.keys(schemas.Input?.properties ?? {})).toEqual(["text"]);
    expect((await call("GET", `/v1/models/${destination}`, { token: bob.token })).status).toBe(404);
  });

  it("fails where the trainer returned no weights", async () => {
    const id = await aTraining(await aDestination(alice));
    await origin.attemptOf(id);
    await ended(id, { note: "nothing" });
    expect(await get(id)).toMatchObject({
      status: "failed",
      output: null,
      error_code: "training.no_weights",
      error: expect.stringContaining("TrainingOutput"),
    });
  });

  it("fails where the destination is gone", async () => {
    const destination = await aDestination(alice);
    const id = await aTraining(destination);
    await env.DB.prepare("DELETE FROM models WHERE name = ?").bind(destination.split("/")[1]).run();
    const file = await trained(id, "weights without a home");
    expect(await env.FILES.head(weightsRef(file).key)).toBeNull();
    expect(await get(id)).toMatchObject({ status: "failed", output: null, error_code: "training.destination_gone" });
    const left = await env.DB.prepare("SELECT id FROM versions WHERE training_id = ?").bind(id).all();
    expect(left.results).toEqual([]);
  });

  it("makes one version, however often it is told", async () => {
    const destination = await aDestination(alice);
    const id = await aTraining(destination);
    const file = await trained(id, "weights told twice");
    expect(await ended(id, { weights: file })).toMatchObject([{ outcome: "stored" }]);
    const other = await aTraining(destination);
    await trained(other, "weights told twice");
    const rows = await env.DB.prepare("SELECT training_id FROM versions WHERE name = ?")
      .bind(destination.split("/")[1])
      .all();
    expect(rows.results).toEqual([{ training_id: id }]);
    expect((await get(other))["output"]).toMatchObject({ version: expect.stringContaining(destination) });
  });

  it("makes no version where it was canceled first", async () => {
    const id = await aTraining(await aDestination(alice));
    await origin.attemptOf(id);
    const canceling = call("POST", `/v1/trainings/${id}/cancel`, { token: alice.token });
    await vi.waitUntil(() => origin.cancels.includes(id));
    await origin.events(id, 0, [
      { type: "started" },
      { type: "finished", status: "canceled", metrics: {}, predict_time_s: 0.1 },
    ]);
    expect(await predictionOf(await canceling)).toMatchObject({ id, status: "canceled", output: null });
    const rows = await env.DB.prepare("SELECT id FROM versions WHERE training_id = ?").bind(id).all();
    expect(rows.results).toEqual([]);
  });
});

describe("a version whose training was canceled in the moment of its end", () => {
  it("is taken back, and the one before it is the newest again", async () => {
    const destination = await aDestination(alice);
    const [owner = "", name = ""] = destination.split("/");
    const ids: string[] = [];
    for (const text of ["first", "second"]) {
      const training = await aTraining(destination);
      await trained(training, `${text} of ${destination}`);
      ids.push(training, ((await get(training)).output as { version: string }).version.split(":")[1] ?? "");
    }
    const [, first, training = "", second = ""] = ids;
    const latest = () =>
      env.DB.prepare("SELECT latest_version_id FROM models WHERE owner = ? AND name = ?")
        .bind(owner, name)
        .first("latest_version_id");
    expect(await latest()).toBe(second);
    const row = await env.DB.prepare("SELECT weights FROM versions WHERE id = ?").bind(second).first("weights");
    const weights_key = JSON.parse(String(row)).key;
    await withdrawVersion(env, "another training", { owner, name, id: second, weights_key });
    expect(await latest()).toBe(second);
    expect(await env.FILES.head(weights_key)).not.toBeNull();
    await withdrawVersion(env, training, { owner, name, id: second, weights_key });
    expect(await latest()).toBe(first);
    expect(await env.FILES.head(weights_key)).toBeNull();
  });
});

describe("a fine-tune", () => {
  async function aFineTune(options: Parameters<typeof train>[1] = {}): Promise<{ version: string; file: FileRef }> {
    const id = await aTraining(await aDestination(alice), options);
    const file = await trained(id, `weights ${id}`);
    const { version } = (await get(id)).output as { version: string };
    return { version: version.split(":")[1] ?? "", file };
  }
  const predict = async (version: string, input: Record<string, unknown> = { text: "x" }) =>
    predictionOf(await call("POST", "/v1/predictions", { token: alice.token, body: { version, input } }));

  it("runs on its base's instances, with its weights beside an input that nobody else sees", async () => {
    const { version, file } = await aFineTune();
    const prediction = await predict(version, { text: "x", replicate_weights: "https://elsewhere.example/w" });
    expect(prediction).toMatchObject({
      version,
      input: { text: "x" },
      logs: expect.stringContaining("replicate_weights"),
    });
    const attempt = await origin.attemptOf(prediction.id);
    const { sha256, size_bytes } = file.$cogway_file;
    expect(attempt).toMatchObject({
      version_id: trainer,
      input: { text: "x" },
      weights: { path: `/origin/v1/weights/${sha256}/weights-of-it.txt`, sha256, size_bytes },
    });
    expect(attempt.input).not.toHaveProperty("replicate_weights");
    expect((await deploymentStub(env, `version:${trainer}`).describe()).leases).toBeGreaterThan(0);
    const fetched = await origin.send("GET", attempt.weights?.path ?? "");
    const bytes = new Uint8Array(await fetched.arrayBuffer());
    expect(bodyDigest(bytes)).toBe(sha256);
    const part = await origin.send("GET", attempt.weights?.path ?? "", undefined, { range: "bytes=1-3" });
    expect([part.status, new Uint8Array(await part.arrayBuffer())]).toEqual([206, bytes.slice(1, 4)]);
    await origin.succeed(prediction.id, "done");
  });

  it("lets the base's callers bring weights of their own", async () => {
    const own = { text: "x", replicate_weights: "https://elsewhere.example/w" };
    const prediction = await predict(trainer, own);
    const attempt = await origin.attemptOf(prediction.id);
    expect(attempt.input).toEqual(own);
    expect(attempt.weights).toBeUndefined();
  });

  it("gets instances of its own where its base loads weights in setup", async () => {
    const { version, file } = await aFineTune({ model: "cogway/setup-trainer", version: setupTrainer });
    const { id } = await predict(version);
    const key = `version:${version}:${alice.id}`;
    const boot = await vi.waitUntil(() => origin.boots.find((each) => each.deployment_key === key));
    const { sha256, size_bytes } = file.$cogway_file;
    const path = `/origin/v1/weights/${sha256}/weights-of-it.txt`;
    expect(boot).toMatchObject({ version_id: setupTrainer, weights: { path, sha256, size_bytes } });
    expect((await origin.attemptOf(id)).weights).toBeUndefined();
  });

  it("cannot be trained further", async () => {
    const { version } = await aFineTune();
    const row = await env.DB.prepare("SELECT owner, name FROM versions WHERE id = ?").bind(version).first();
    const model = `${row?.["owner"]}/${row?.["name"]}`;
    const answer = await train({ destination: await aDestination(alice), input: INPUT }, { model, version });
    expect(await problemOf(answer)).toMatchObject({ status: 422, code: "version.invalid" });
  });
});

describe("reads", () => {
  it("list trainings apart from predictions, and find each by either address", async () => {
    const carol = await anAccount();
    const { token } = carol;
    const destination = await aDestination(carol);
    const [first, second] = [await aTraining(destination, { token }), await aTraining(destination, { token })];
    const page = TrainingPageSchema.parse(await (await call("GET", "/v1/trainings", { token })).json());
    expect(page.results.map(({ id }) => id)).toEqual([second, first]);
    const predictions = await (await call("GET", "/v1/predictions", { token })).json<{ results: unknown[] }>();
    expect(predictions.results).toEqual([]);
    const { waiting_for: _, ...training } = await get(first, token);
    expect(await predictionOf(await call("GET", `/v1/predictions/${first}`, { token }))).toMatchObject(training);
    const canceled = await predictionOf(await call("POST", `/v1/trainings/${first}/cancel`, { token }));
    expect(canceled).toMatchObject({ id: first, status: "canceled", destination });
  });

  it("know no training of another account, no prediction, and no made-up id", async () => {
    const id = await aTraining(await aDestination(alice));
    const { id: prediction } = await predictionOf(
      await call("POST", "/v1/predictions", { token: alice.token, body: { version: plain, input: { text: "x" } } }),
    );
    for (const [path, token] of [
      [id, bob.token],
      [prediction, alice.token],
      ["a".repeat(26), alice.token],
    ] as const) {
      for (const [method, address] of [
        ["GET", path],
        ["POST", `${path}/cancel`],
      ] as const) {
        const answer = await call(method, `/v1/trainings/${address}`, { token });
        expect(await problemOf(answer)).toMatchObject({ status: 404, code: "training.not_found" });
      }
    }
  });
});

describe("weights between origin and edge", () => {
  it("are kept for live trainings only, of files that are there", async () => {
    const id = await aTraining(await aDestination(alice));
    await origin.attemptOf(id);
    const file = { $cogway_file: { n: 0, name: "w", content_type: "x/y", size_bytes: 1, sha256: "0".repeat(64) } };
    const keep = (path: string) => origin.send("POST", `/origin/v1/weights/${path}`, JSON.stringify(file));
    expect(await problemOf(await keep(`${id}/1`))).toMatchObject({ status: 404, code: "output.not_found" });
    expect(await problemOf(await keep(`${id}/2`))).toMatchObject({ status: 409, code: "attempt.fenced" });
    expect((await call("GET", `/origin/v1/weights/${"0".repeat(64)}/w`, { token: alice.token })).status).toBe(401);
    const missing = await origin.send("GET", `/origin/v1/weights/${"0".repeat(64)}/w`);
    expect(await problemOf(missing)).toMatchObject({ status: 404 });
  });
});

interface WireModel {
  latest_version: { openapi_schema: { components: { schemas: Record<string, { properties?: object }> } } };
}
