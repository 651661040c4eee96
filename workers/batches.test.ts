import { env } from "cloudflare:workers";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { accountStub } from "../durable-objects/stubs.ts";
import { anAccount, anAnnounce, aToken, call, FakeOrigin, problemOf } from "./testing/edge.ts";

interface WireBatch {
  id: string;
  status: string;
  counts: Record<string, number>;
  urls: { get: string; cancel: string; results: string };
}

let origin: FakeOrigin;
beforeAll(async () => {
  origin = await FakeOrigin.join();
  await origin.announce("echo", anAnnounce());
});
beforeEach(() => {
  origin.attempts.length = 0;
});
afterAll(() => vi.unstubAllGlobals());

function createBatch(token: string, body: Record<string, unknown>): Promise<Response> {
  return call("POST", "/v1/batches", { token, body: { version: "cogway/echo", ...body } });
}

async function batchOf(answer: Response): Promise<WireBatch> {
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

const get = async (token: string, id: string): Promise<WireBatch> =>
  batchOf(await call("GET", `/v1/batches/${id}`, { token }));

const dataUri = (text: string): string => `data:application/x-ndjson;base64,${Buffer.from(text).toString("base64")}`;

/** Runs what comes to the origin until the batch ended; answers the ids of the predictions that ran. */
async function runAll(token: string, id: string, output = (text: unknown): unknown => text): Promise<string[]> {
  const ran: string[] = [];
  await vi.waitFor(
    async () => {
      await origin.bringUp();
      for (const start of origin.attempts.filter((attempt) => !ran.includes(attempt.prediction_id))) {
        ran.push(start.prediction_id);
        await origin.succeed(start.prediction_id, output(start.input?.["text"]));
      }
      const { status, counts } = await get(token, id);
      if (status !== "succeeded") throw new Error(`still ${status} ${JSON.stringify(counts)}`);
    },
    { timeout: 15_000, interval: 20 },
  );
  return ran;
}

/** The attempt of the input with this text. */
function attemptWith(text: string): Promise<FakeOrigin["attempts"][number]> {
  return vi.waitFor(
    async () => {
      await origin.bringUp();
      const attempt = origin.attempts.find((start) => start.input?.["text"] === text);
      if (attempt === undefined) throw new Error(`${text} does not run yet`);
      return attempt;
    },
    { timeout: 10_000, interval: 20 },
  );
}

async function resultsOf(token: string, id: string): Promise<Record<string, unknown>[]> {
  const answer = await call("GET", `/v1/batches/${id}/results`, { token });
  expect(answer.status).toBe(200);
  return (await answer.text())
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

describe("a batch", () => {
  it("guarantees one run and one meter for each line, results in their order, and one create of the limit", async () => {
    const { token, id: accountId } = await anAccount({ creates_per_minute: 2 });
    const lines = ['{"text":"a"}', '{"input":{"text":"b"},"custom_id":"second"}', "", '{"text":"c"}'];
    const created = await createBatch(token, { input_url: dataUri(lines.join("\n")), max_concurrency: 2 });
    expect(created.status).toBe(201);
    expect(created.headers.get("ratelimit-remaining")).toBe("1");
    const batch = await batchOf(created);
    expect(created.headers.get("location")).toBe(batch.urls.get);
    expect(batch).toMatchObject({ status: "processing", counts: { total: 3 } });

    const ran = await runAll(token, batch.id);
    expect(new Set(ran).size).toBe(3);
    expect(await get(token, batch.id)).toMatchObject({
      status: "succeeded",
      counts: { total: 3, pending: 0, running: 0, succeeded: 3, failed: 0, canceled: 0 },
    });
    const results = await resultsOf(token, batch.id);
    expect(results.map(({ index, custom_id, status, output }) => [index, custom_id, status, output])).toEqual([
      [0, null, "succeeded", "a"],
      [1, "second", "succeeded", "b"],
      [2, null, "succeeded", "c"],
    ]);
    const account = accountStub(env, accountId);
    await vi.waitFor(async () => expect(await account.meters(10)).toHaveLength(3), { timeout: 5_000 });
    expect((await account.list({ kind: "prediction", limit: 10 })).rows).toEqual([]);
    expect((await account.list({ kind: "batch", limit: 10 })).rows.map((row) => row.prediction_id)).toEqual([batch.id]);
  });

  it("guarantees that no more than max_concurrency run at once", async () => {
    const { token } = await anAccount();
    const inputs = Array.from({ length: 7 }, (_, i) => ({ text: `n${i}` }));
    const batch = await batchOf(await createBatch(token, { inputs, max_concurrency: 3 }));
    await vi.waitFor(async () => expect((await get(token, batch.id)).counts["running"]).toBe(3), { timeout: 10_000 });
    expect((await get(token, batch.id)).counts).toMatchObject({ pending: 4, running: 3 });
    await runAll(token, batch.id);
    expect((await resultsOf(token, batch.id)).map((result) => result["output"])).toEqual(
      inputs.map(({ text }) => text),
    );
  });

  it("guarantees that a part of the results can be asked for", async () => {
    const { token } = await anAccount();
    const batch = await batchOf(await createBatch(token, { inputs: [{ text: "a" }] }));
    const early = await call("GET", `/v1/batches/${batch.id}/results`, { token });
    expect(await problemOf(early)).toMatchObject({ status: 409, code: "batch.unfinished" });
    expect(early.headers.get("retry-after")).toBe("5");
    await runAll(token, batch.id, () => "x".repeat(100_000));
    const whole = await (await call("GET", `/v1/batches/${batch.id}/results`, { token })).text();
    const part = await call("GET", `/v1/batches/${batch.id}/results`, { token, headers: { range: "bytes=10-19" } });
    expect(part.status).toBe(206);
    expect(part.headers.get("content-range")).toBe(`bytes 10-19/${whole.length}`);
    expect(await part.text()).toBe(whole.slice(10, 20));
  });

  it("guarantees that a cancel ends what waits and what runs, and keeps what ended", async () => {
    const { token } = await anAccount();
    const inputs = Array.from({ length: 4 }, (_, i) => ({ text: `wait${i}` }));
    const batch = await batchOf(await createBatch(token, { inputs, max_concurrency: 1 }));
    await origin.succeed((await attemptWith("wait0")).prediction_id, "done");
    const second = await attemptWith("wait1");
    await origin.events(second.prediction_id, 0, [{ type: "started" }]);
    const canceling = call("POST", `/v1/batches/${batch.id}/cancel`, { token });
    await vi.waitFor(() => expect(origin.cancels).toContain(second.prediction_id), { timeout: 10_000 });
    await origin.events(second.prediction_id, 1, [
      { type: "finished", status: "canceled", metrics: {}, predict_time_s: 0.1 },
    ]);
    expect(await batchOf(await canceling)).toMatchObject({
      status: "canceled",
      counts: { succeeded: 1, canceled: 3, pending: 0, running: 0 },
    });
    expect((await resultsOf(token, batch.id)).map((result) => result["status"])).toEqual([
      "succeeded",
      "canceled",
      "canceled",
      "canceled",
    ]);
    expect(await batchOf(await call("POST", `/v1/batches/${batch.id}/cancel`, { token }))).toMatchObject({
      status: "canceled",
    });
  });

  it("guarantees that all faults are named before anything runs, and that nothing of it is left", async () => {
    const { token } = await anAccount();
    const lines = ['{"text":1}', "{", '{"text":"ok"}', '{"input":{},"custom_id":"x"}', "[1]"];
    const answer = await createBatch(token, { input_url: dataUri(lines.join("\n")) });
    const problem = await problemOf(answer);
    expect(problem).toMatchObject({ status: 422, code: "batch.invalid" });
    expect(problem.invalid_fields?.map(({ field }) => field)).toEqual([
      "line 1: input.text",
      "line 2",
      "line 4: input",
      "line 5",
    ]);
    const list = await call("GET", "/v1/batches", { token });
    expect(await list.json()).toEqual({ previous: null, next: null, results: [] });
  });

  it.each([
    ["no source", {}],
    ["two sources", { inputs: [{ text: "a" }], input_url: "https://example.com/x" }],
    ["no inputs", { input_url: dataUri("\n\n") }],
    ["an address that is none", { input_url: "ftp://example.com/x" }],
    ["an address with a password", { input_url: "https://a:b@example.com/x" }],
    ["a concurrency of 0", { inputs: [{ text: "a" }], max_concurrency: 0 }],
    ["a concurrency of 101", { inputs: [{ text: "a" }], max_concurrency: 101 }],
    ["an unknown member", { inputs: [{ text: "a" }], status: "succeeded" }],
    ["bytes that are no text", { input_url: `data:;base64,${Buffer.from([0xff, 0xfe, 0x00]).toString("base64")}` }],
    ["a line that is too long", { input_url: dataUri(`{"text":"${"x".repeat(262_144)}"}`) }],
  ])("guarantees a clear refusal of %s", async (_what, body) => {
    const { token } = await anAccount();
    expect((await problemOf(await createBatch(token, body))).status).toBe(422);
  });

  it("guarantees that another account finds nothing, and that scopes count", async () => {
    const alice = await anAccount();
    const bob = await anAccount();
    const { id } = await batchOf(await createBatch(alice.token, { inputs: [{ text: "a" }] }));
    for (const [method, path] of [
      ["GET", `/v1/batches/${id}`],
      ["POST", `/v1/batches/${id}/cancel`],
      ["GET", `/v1/batches/${id}/results`],
      ["GET", "/v1/batches/aaaaaaaaaaaaaaaaaaaaaaaaaa"],
    ] as const) {
      const problem = await problemOf(await call(method, path, { token: bob.token }));
      expect(problem).toMatchObject({ status: 404, code: "batch.not_found" });
    }
    const reader = await aToken(alice.id, ["predictions:read"]);
    expect((await createBatch(reader, { inputs: [{ text: "a" }] })).status).toBe(403);
    expect((await call("GET", `/v1/batches/${id}`)).status).toBe(401);
    await runAll(alice.token, id);
  });

  it("guarantees pages of lists, newest first", async () => {
    const { token } = await anAccount();
    const made: string[] = [];
    for (let i = 0; i < 21; i++) {
      made.push((await batchOf(await createBatch(token, { inputs: [{ text: `p${i}` }] }))).id);
    }
    const first = await (await call("GET", "/v1/batches", { token })).json<{ next: string; results: WireBatch[] }>();
    const rest = await call("GET", first.next.replace(env.PUBLIC_URL, ""), { token });
    const second = await rest.json<{ next: null; results: WireBatch[] }>();
    expect(second.next).toBeNull();
    expect([...first.results, ...second.results].map((batch) => batch.id).sort()).toEqual(made.sort());
  });

  it("guarantees one batch for one Idempotency-Key, and the same bytes again", async () => {
    const { token } = await anAccount();
    const send = (text: string): Promise<Response> =>
      call("POST", "/v1/batches", {
        token,
        body: { version: "cogway/echo", inputs: [{ text }] },
        headers: { "idempotency-key": "once" },
      });
    const first = await (await send("a")).text();
    const again = await send("a");
    expect([again.status, await again.text()]).toEqual([201, first]);
    expect(await problemOf(await send("b"))).toMatchObject({ status: 422, code: "idempotency.key_reused" });
    const list = await call("GET", "/v1/batches", { token });
    expect((await list.json<{ results: WireBatch[] }>()).results).toHaveLength(1);
  });

  it("guarantees that inputs come from an own file by id or address, and from nobody else's", async () => {
    const alice = await anAccount();
    const bob = await anAccount();
    const form = new FormData();
    form.append("content", new File(['{"text":"from a file"}\n'], "inputs.jsonl"));
    const encoded = new Request("http://localhost", { method: "POST", body: form });
    const uploaded = await call("POST", "/v1/files", {
      token: alice.token,
      bytes: new Uint8Array(await encoded.arrayBuffer()),
      headers: { "content-type": encoded.headers.get("content-type") ?? "" },
    });
    const { id, urls } = await uploaded.json<{ id: string; urls: { get: string } }>();
    for (const input_file of [id, urls.get]) {
      const batch = await batchOf(await createBatch(alice.token, { input_file }));
      expect(batch.counts).toMatchObject({ total: 1 });
      await runAll(alice.token, batch.id);
      expect(await resultsOf(alice.token, batch.id)).toMatchObject([{ output: "from a file" }]);
      const problem = await problemOf(await createBatch(bob.token, { input_file }));
      expect(problem).toMatchObject({ status: 422, invalid_fields: [{ field: "input_file" }] });
    }
  });
});
