import { existsSync, readdirSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import type { FileRef, WeightsSource } from "../schema/origin-protocol.ts";
import { bodyDigest } from "../schema/request-signature.ts";
import { TestOrigin } from "./testing/harness.ts";
import { zipOf } from "./testing/zip.ts";

const DATA = `data:application/zip;base64,${zipOf({ "a.txt": "roses", "b.txt": "violets" }).toString("base64")}`;
const MEBIBYTE = 1024 ** 2;

describe("a training on real coglet", () => {
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start(["trainer", "trainer-setup", "noop"]);
  }, 240_000);
  afterEach(() => origin.releaseInstances());
  afterAll(() => origin.stop());

  const bootTrainer = (model = "trainer"): Promise<string> =>
    origin.boot(model, ["ready"], 30_000, { mode: "train", slots: 1, deployment_key: `training:${newId(26)}` });

  it("is announced with the schema of its trainer and the memory that it needs", () => {
    const version = origin.edge.announces.get("trainer")?.at(-1)?.version;
    expect(version?.train_memory_bytes).toBe(128 * MEBIBYTE);
    const { Input, TrainingInput, TrainingOutput, mode } = schemasOf(version?.openapi_schema);
    expect(Object.keys(propertiesOf(Input))).toEqual(["text", "replicate_weights"]);
    expect(TrainingInput).toMatchObject({
      required: ["train_data"],
      properties: { train_data: { type: "string", format: "uri" }, steps: { default: 3, minimum: 1 } },
    });
    expect(TrainingOutput).toMatchObject({ properties: { weights: { type: "string", format: "uri" } } });
    expect(mode).toMatchObject({ enum: ["train", "crash", "raise", "blocking"] });
  });

  it("keeps choices of predictor and trainer apart where they have one name", () => {
    const { mode, TrainingInput } = schemasOf(
      origin.edge.announces.get("trainer-setup")?.at(-1)?.version?.openapi_schema,
    );
    expect(mode).toMatchObject({ enum: ["plain", "where"] });
    expect(propertiesOf(TrainingInput)["mode"]).toMatchObject({ enum: ["weights", "no weights"], default: "weights" });
  });

  it("runs on a data set, with the weights stored and kept before the end names them", async () => {
    const instance = await bootTrainer();
    const outcome = await origin.predict("trainer", instance, { train_data: DATA });
    expect(outcome).toMatchObject({ status: "succeeded", logs: expect.stringContaining("step 3/3\n") });
    const { weights } = outcome.output as { weights: FileRef };
    expect(weights.$cogway_file).toMatchObject({ n: 0, sha256: bodyDigest("roses violets"), size_bytes: 13 });
    expect(origin.edge.kept).toContainEqual(weights);
    expect(outcome.events.some((event) => event.type === "output")).toBe(false);
    expect(outcome.metrics).toMatchObject({ loss: 1 / 3 });
  });

  it("leaves nothing in the folder that it started in", async () => {
    const { id } = origin.version("trainer-setup");
    const before = readdirSync(`${origin.dataDir}/versions/${id}/source`);
    const instance = await bootTrainer("trainer-setup");
    await origin.predict("trainer-setup", instance, {});
    const folder = `${origin.dataDir}/trainers/${instance}`;
    expect(readdirSync(folder)).toContain("scratch.txt");
    await origin.releaseInstances();
    expect(existsSync(folder)).toBe(false);
    expect(readdirSync(`${origin.dataDir}/versions/${id}/source`)).toEqual(before);
  });

  it("tells logs and metrics while it runs", async () => {
    const instance = await bootTrainer();
    const id = await origin.send("trainer", instance, { train_data: DATA, steps: 200, pause_s: 0.02 });
    const events = await origin.edge.until(() => {
      const seen = origin.edge.eventsOf(id);
      return seen.some((event) => event.type === "metric") && seen.some((event) => event.type === "log") ? seen : null;
    }, "a log line and a metric");
    expect(events.some((event) => event.type === "finished")).toBe(false);
    expect(events.find((event) => event.type === "metric")).toMatchObject({ name: "loss", value: 1, mode: "replace" });
    await origin.cancel(id, 5_000);
    expect(await origin.untilFinished(id)).toMatchObject({ status: "canceled" });
  });

  it("gives weights of tens of megabytes through, whole", async () => {
    const instance = await bootTrainer();
    const { status, output } = await origin.predict("trainer", instance, { train_data: DATA, size_mb: 24 });
    expect(status).toBe("succeeded");
    const { size_bytes, sha256 } = (output as { weights: FileRef }).weights.$cogway_file;
    expect({ size_bytes, sha256 }).toEqual({
      size_bytes: 13 + 24 * MEBIBYTE,
      sha256: bodyDigest(Buffer.from(`roses violets${" ".repeat(24 * MEBIBYTE)}`)),
    });
  });

  it.each([
    [{ mode: "raise" }, { error: "ValueError: the data set is bad", logs: expect.stringContaining("step 2/3\n") }],
    [{ mode: "crash" }, { code: "model.crashed", logs: expect.stringContaining("step 2/3\n") }],
    [{ train_data: "data:application/zip;base64,bm8gemlw" }, { error: expect.stringContaining("BadZipFile") }],
    [{ train_data: "http://127.0.0.1:1/data.zip" }, { code: "input.download_failed" }],
    [{ steps: 0 }, { code: "input.refused" }],
  ])("fails with a clear end: %o", async (change, end) => {
    const instance = await bootTrainer();
    const outcome = await origin.predict("trainer", instance, { train_data: DATA, ...change });
    expect(outcome).toMatchObject({ status: "failed", ...end });
    expect(outcome.output).toBeNull();
  });

  it("ends when its trainer is killed, with the lines that it wrote", async () => {
    const instance = await bootTrainer();
    const id = await origin.send("trainer", instance, { train_data: DATA, steps: 1000, pause_s: 0.05 });
    const line = await origin.edge.until(
      () => origin.edge.eventsOf(id).flatMap((event) => (event.type === "log" ? [event.data] : []))[0],
      "its process id",
    );
    process.kill(Number(/process (\d+)/.exec(line)?.[1]), "SIGKILL");
    await origin.untilFinished(id);
    expect(origin.outcome(id)).toMatchObject({
      status: "failed",
      code: "model.crashed",
      logs: expect.stringContaining("files"),
    });
  });

  it("is killed where a cancel does not stop it", async () => {
    const instance = await bootTrainer();
    const id = await origin.send("trainer", instance, { train_data: DATA, mode: "blocking" });
    await origin.edge.until(() => origin.edge.eventsOf(id).some((event) => event.type === "log"), "its first line");
    await origin.cancel(id, 300);
    expect(await origin.untilFinished(id, 5_000)).toMatchObject({ status: "canceled" });
  });

  it("may return its weights as a file of any size, and nothing, which the edge judges", async () => {
    const instance = await bootTrainer("trainer-setup");
    const { output } = await origin.predict("trainer-setup", instance, { size_mb: 80 });
    const { name, size_bytes } = (output as FileRef).$cogway_file;
    expect({ name, size_bytes }).toEqual({ name: "weights.safetensors", size_bytes: 5 + 80 * MEBIBYTE });
    const nothing = await origin.predict("trainer-setup", instance, { mode: "no weights" });
    expect(nothing).toMatchObject({ status: "succeeded", output: null });
  });

  it("is refused where the version has no trainer", async () => {
    const boot = origin.boot("noop", ["ready"], 30_000, { mode: "train" });
    await expect(boot).rejects.toThrow("version.no_trainer");
  });

  describe("its weights", () => {
    const serve = (text: string): WeightsSource => {
      const sha256 = bodyDigest(text);
      const path = `/origin/v1/weights/${sha256}/weights.txt`;
      origin.edge.weights.set(path, Buffer.from(text));
      return { path, sha256, size_bytes: Buffer.byteLength(text) };
    };

    it("are given to each prediction by the base's instance, fetched once", async () => {
      const instance = await origin.boot("trainer");
      const [lilies, tulips] = [serve("lilies"), serve("tulips")];
      const outputs = [];
      for (const weights of [lilies, tulips, lilies, undefined]) {
        const id = await origin.send("trainer", instance, { text: "hi" }, weights === undefined ? {} : { weights });
        await origin.untilFinished(id);
        outputs.push(origin.outcome(id).output);
      }
      expect(outputs).toEqual(["hi from lilies", "hi from tulips", "hi from lilies", "hi from the base"]);
      expect(origin.edge.weightsFetches.filter((path) => path === lilies.path)).toHaveLength(1);
    });

    it("are loaded in setup from a file that models cannot change", async () => {
      const weights = serve("asters");
      const instance = await origin.boot("trainer-setup", ["ready"], 30_000, { weights });
      expect(await origin.predict("trainer-setup", instance, {})).toMatchObject({ output: "hello from asters" });
      const { output } = await origin.predict("trainer-setup", instance, { mode: "where" });
      expect(output).toBe(`${origin.dataDir}/blobs/${weights.sha256}/weights.txt`);
    });

    it("fail the boot with a reason where the edge has others, or none", async () => {
      const weights = serve("true ones");
      origin.edge.weights.set(weights.path, Buffer.from("fals ones"));
      const forged = await origin.boot("trainer-setup", ["failed"], 30_000, { weights });
      expect((await origin.untilState(forged, ["failed"])).reason).toContain("digest");
      origin.edge.weights.delete(weights.path);
      const missing = await origin.boot("trainer-setup", ["failed"], 30_000, { weights });
      expect((await origin.untilState(missing, ["failed"])).reason).toContain("no such weights");
    });
  });
});

type Json = Record<string, unknown>;

function schemasOf(document: Json = {}): Json {
  return (document["components"] as { schemas: Json }).schemas;
}

function propertiesOf(schema: unknown): Json {
  return (schema as { properties: Json }).properties;
}
