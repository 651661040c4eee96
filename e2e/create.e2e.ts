import { createServer } from "node:http";
import { beforeAll, expect, test } from "vitest";
import type { Api, Model, Problem } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";

let caller: Api;
beforeAll(async () => {
  caller = await newCaller("create");
});

test("create and wait: one call gives the whole prediction", async () => {
  const answer = await caller.tryCreate("noop", { text: "hi ", times: 2 }, { wait: true });
  expect(answer.status).toBe(201);
  const prediction = answer.body;
  expect(prediction).toMatchObject({
    status: "succeeded",
    model: "cogway/noop",
    input: { text: "hi ", times: 2 },
    output: "hi hi ",
    error: null,
    data_removed: false,
    source: "api",
  });
  expect(prediction.metrics["predict_time"]).toBeGreaterThanOrEqual(0);
  expect(prediction.metrics["total_time"]).toBeGreaterThanOrEqual(prediction.metrics["predict_time"] as number);
  expect(Date.parse(prediction.created_at)).toBeLessThanOrEqual(Date.parse(prediction.started_at ?? ""));
  expect(Date.parse(prediction.started_at ?? "")).toBeLessThanOrEqual(Date.parse(prediction.completed_at ?? ""));
  expect(prediction.urls.get).toBe(`${caller.url}/v1/predictions/${prediction.id}`);
  expect(answer.headers.get("location")).toBe(prediction.urls.get);
  expect(answer.headers.get("preference-applied")).toContain("wait");
  expect(answer.headers.get("x-request-id")).toBeTruthy();
  expect(await caller.get(prediction)).toEqual(prediction);
});

test("the defaults of the model are filled in", async () => {
  expect(await caller.run("noop", {})).toMatchObject({ input: { text: "hello", times: 1 }, output: "hello" });
});

test("async and poll: the create answers before the model has run", async () => {
  const answer = await caller.tryCreate("slow", { seconds: 1 }, { headers: { prefer: "respond-async" } });
  expect(answer.status).toBe(201);
  expect(["starting", "processing"]).toContain(answer.body.status);
  expect(answer.body).toMatchObject({ output: null, completed_at: null });
  expect(await caller.untilEnd(answer.body)).toMatchObject({ status: "succeeded", output: "done", logs: "begun\n" });
});

test("a wait that is over before the prediction answers `starting` without output, and the prediction goes on", async () => {
  const answer = await caller.tryCreate("slow", { seconds: 3 }, { wait: 1 });
  expect([201, 202]).toContain(answer.status);
  expect(answer.body).toMatchObject({ status: "starting", output: null });
  expect(await caller.untilEnd(answer.body)).toMatchObject({ status: "succeeded", output: "done" });
});

test("a model is named by its version, by owner and name, or by both", async () => {
  const { body: model } = await caller.request<Model>("GET", "/v1/models/cogway/noop");
  const version = model.latest_version?.id ?? "";
  for (const reference of [version, "cogway/noop", `cogway/noop:${version}`]) {
    const answer = await caller.request("POST", "/v1/predictions", {
      body: { version: reference, input: { text: reference } },
      headers: { prefer: "wait" },
    });
    expect(answer.body).toMatchObject({ status: "succeeded", output: reference, version, model: "cogway/noop" });
  }
});

test("null for an optional input is as if it was left out", async () => {
  expect(await caller.run("noop", { text: "x", note: null })).toMatchObject({ status: "succeeded", output: "x" });
});

test("an unknown input is dropped, and the prediction's logs say so", async () => {
  const prediction = await caller.run("noop", { text: "x", temperature: 0.5 });
  expect(prediction).toMatchObject({ status: "succeeded", output: "x" });
  expect(prediction.input).not.toHaveProperty("temperature");
  expect(prediction.logs).toContain("temperature");
});

test("a data URI becomes the model's file", async () => {
  const file = `data:text/plain;base64,${Buffer.from("twelve bytes").toString("base64")}`;
  expect((await caller.run("inputs", { file })).output).toMatchObject({ files: [{ suffix: ".txt", size: 12 }] });
});

test("an address on loopback is never fetched for a caller", async () => {
  let connections = 0;
  const canary = createServer((_, response) => response.end("secret"));
  canary.on("connection", () => connections++);
  await new Promise<void>((done) => canary.listen(0, "127.0.0.1", done));
  const address = canary.address();
  if (address === null || typeof address === "string") throw new Error("no address");
  try {
    for (const host of ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"]) {
      const file = `http://${host}:${address.port}/secret.txt`;
      const answer = await caller.tryCreate("inputs", { file }, { wait: true });
      if (answer.status === 422) {
        expect((answer.body as unknown as Problem).detail).toContain("file");
        continue;
      }
      const end = await caller.untilEnd(answer.body);
      expect(end.status).toBe("failed");
      expect(end.error).toBeTruthy();
    }
    expect(connections).toBe(0);
  } finally {
    canary.close();
  }
});
