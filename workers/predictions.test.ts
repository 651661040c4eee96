/** Predictions as their callers see them: the real edge with its objects, D1 and R2, and an origin that does what a test says. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { accountStub } from "../durable-objects/stubs.ts";
import { aDocument, aSettlement } from "../durable-objects/testing/harness.ts";
import { PredictionPageSchema, PredictionSchema } from "../schema/api/predictions.ts";
import { spentFor } from "./domain/spent-creates.ts";
import {
  anAccount,
  anAnnounce,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

let origin: FakeOrigin;
let version: string;
let alice: { id: string; username: string; token: string };
let bob: { token: string };

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  [alice, bob] = await Promise.all([anAccount(), anAccount()]);
});

const create = (body: unknown, headers: Record<string, string> = {}, token = alice.token) =>
  call("POST", "/v1/predictions", { token, body, headers });

describe("create", () => {
  it("answers at once with the prediction's address, and runs it", async () => {
    const answer = await create({ version, input: { text: "hi" } });
    expect(answer.status).toBe(201);
    const prediction = await predictionOf(answer);
    expect(prediction).toMatchObject({
      status: "starting",
      model: "cogway/echo",
      version,
      input: { text: "hi", count: 3, color: "red" },
      output: null,
      logs: "",
      error: null,
      data_removed: false,
      source: "api",
    });
    expect(answer.headers.get("location")).toBe(`${PUBLIC_URL}/v1/predictions/${prediction.id}`);
    expect(answer.headers.get("preference-applied")).toBeNull();
    expect(Number(answer.headers.get("ratelimit-remaining"))).toBeLessThan(600);
    expect(answer.headers.get("ratelimit-reset")).toMatch(/^\d+$/);

    expect((await origin.attemptOf(prediction.id)).input).toEqual({ text: "hi", count: 3, color: "red" });
    await origin.succeed(prediction.id, "hi hi hi");
    const ended = await predictionOf(await call("GET", `/v1/predictions/${prediction.id}`, { token: alice.token }));
    expect(ended).toMatchObject({ status: "succeeded", output: "hi hi hi", metrics: { predict_time: 0.1 } });
    expect(() => PredictionSchema.parse(ended)).not.toThrow();
  });

  it("waits for the end when asked to", async () => {
    const waiting = create({ version: "cogway/echo", input: { text: "wait" } }, { prefer: "wait=20" });
    const attempt = await vi.waitFor(() => findAttempt("wait"), { timeout: 5_000 });
    await origin.succeed(attempt.prediction_id, "done");
    const answer = await waiting;
    expect(answer.status).toBe(201);
    expect(answer.headers.get("preference-applied")).toBe("wait=20");
    expect(await predictionOf(answer)).toMatchObject({ status: "succeeded", output: "done" });
  });

  it("shows `starting` and no output when the wait ran out, whatever the state is", async () => {
    const waiting = create({ version: `cogway/echo:${version}`, input: { text: "slow" } }, { prefer: "wait=1" });
    const { prediction_id } = await vi.waitFor(() => findAttempt("slow"), { timeout: 5_000 });
    await origin.events(prediction_id, 0, [{ type: "started" }, { type: "output", mode: "set", value: "part" }]);
    const prediction = await predictionOf(await waiting);
    expect(prediction).toMatchObject({ status: "starting", output: null });
    const now = await predictionOf(await call("GET", `/v1/predictions/${prediction.id}`, { token: alice.token }));
    expect(now.status).toBe("processing");
  });

  it("runs a model's latest version", async () => {
    const answer = await call("POST", "/v1/models/cogway/echo/predictions", {
      token: alice.token,
      body: { input: { text: "m" } },
    });
    expect(await predictionOf(answer)).toMatchObject({ version, model: "cogway/echo" });
  });

  it("keeps a large input in R2, whole for the origin and the caller", async () => {
    const text = "é".repeat(200_000);
    const { id } = await predictionOf(await create({ version, input: { text } }));
    const attempt = await origin.attemptOf(id);
    expect(attempt.input).toBeUndefined();
    expect(await env.FILES.head(`predictions/${id}/input`)).not.toBeNull();
    const fetched = await origin.send("GET", attempt.input_ref ?? "");
    expect(await fetched.json()).toEqual({ text, count: 3, color: "red" });
    const shown = await predictionOf(await call("GET", `/v1/predictions/${id}`, { token: alice.token }));
    expect(shown.input).toEqual({ text, count: 3, color: "red" });
  });

  it("gives a secret to the model alone", async () => {
    const { id, input } = await predictionOf(await create({ version, input: { text: "s", key: "hunter2" } }));
    expect(input["key"]).toBe("[REDACTED]");
    expect((await origin.attemptOf(id)).input?.["key"]).toBe("hunter2");
  });

  it("drops unknown inputs with a line in the prediction's logs", async () => {
    const { id } = await predictionOf(await create({ version, input: { text: "x", wat: 1, image: null } }));
    const got = await predictionOf(await call("GET", `/v1/predictions/${id}`, { token: alice.token }));
    expect(got.input).toEqual({ text: "x", count: 3, color: "red" });
    expect(got.logs).toContain('"wat"');
  });

  it("accepts what clients send beside the input", async () => {
    const answer = await create({
      version,
      input: { text: "c" },
      stream: true,
      webhook: "https://example.com/hook?a=b",
      webhook_events_filter: ["start", "completed"],
    });
    expect(await predictionOf(answer)).toMatchObject({ webhook: "https://example.com/hook?a=b" });
  });

  it("tells predictions of the web page from others", async () => {
    const answer = await create({ version, input: { text: "w" } }, { "sec-fetch-site": "same-origin" });
    expect(await predictionOf(answer)).toMatchObject({ source: "web" });
    const list = await call("GET", "/v1/predictions?source=web", { token: alice.token });
    expect(PredictionPageSchema.parse(await list.json()).results).toHaveLength(1);
  });
});

function findAttempt(text: string) {
  const attempt = origin.attempts.find((start) => start.input?.["text"] === text);
  if (attempt === undefined) throw new Error("no attempt yet");
  return attempt;
}

describe("refusals start nothing", () => {
  it("names every fault of an input at once", async () => {
    const before = origin.attempts.length;
    const answer = await create({ version, input: { count: 99, color: "green", image: "ftp://x/y" } });
    expect(answer.status).toBe(422);
    const problem = await problemOf(answer);
    expect(problem).toMatchObject({ code: "input.invalid", title: "Input validation failed", status: 422 });
    expect(problem.invalid_fields?.map(({ type, field }) => `${type} ${field}`).toSorted()).toEqual([
      "enum input.color",
      "format input.image",
      "number_lte input.count",
      "required input",
    ]);
    for (const { description } of problem.invalid_fields ?? []) expect(problem.detail).toContain(description);
    expect(origin.attempts).toHaveLength(before);
  });

  it.each([
    [
      "an unknown top-level member",
      { version: "cogway/echo", input: { text: "x" }, owner: "me" },
      422,
      "input.invalid",
    ],
    ["no input", { version: "cogway/echo" }, 422, "input.invalid"],
    ["an input that is no object", { version: "cogway/echo", input: "text" }, 422, "input.invalid"],
    [
      "a webhook that is no URL",
      { version: "cogway/echo", input: { text: "x" }, webhook: "nope" },
      422,
      "input.invalid",
    ],
    ["an unknown version", { version: "f".repeat(64), input: { text: "x" } }, 422, "version.invalid"],
    ["an unknown version of a model", { version: `cogway/echo:${"f".repeat(64)}`, input: {} }, 422, "version.invalid"],
    ["no reference at all", { version: "latest", input: {} }, 422, "version.invalid"],
    ["an unknown model", { version: "cogway/nothing", input: {} }, 404, "model.not_found"],
    ["a body that is no JSON", "{", 400, "request.malformed"],
    ["an array", "[]", 422, "input.invalid"],
    ["nesting without end", `{"input":${"[".repeat(100)}${"]".repeat(100)}}`, 400, "request.malformed"],
  ])("%s", async (_what, body, status, code) => {
    const answer = await create(body);
    expect(answer.status).toBe(status);
    const problem = await problemOf(answer);
    expect(problem.code).toBe(code);
    expect(problem.instance).toBe(answer.headers.get("x-request-id"));
  });

  it.each([
    [{ "cancel-after": "4s" }],
    [{ "cancel-after": "25h" }],
    [{ "cancel-after": "soon" }],
    [{ "cogway-priority": "high" }],
    [{ "idempotency-key": "k".repeat(256) }],
    [{ "idempotency-key": '""' }],
  ])("the header %o", async (headers) => {
    const answer = await create({ version, input: { text: "x" } }, headers);
    expect(answer.status).toBe(400);
    expect((await problemOf(answer)).code).toBe("request.header_invalid");
  });

  it("another media type, and a body that is too large", async () => {
    const typed = await create("a=b", { "content-type": "application/x-www-form-urlencoded" });
    expect(typed.status).toBe(415);
    expect((await problemOf(typed)).detail).toContain("application/json");
    const large = await create({ version, input: { text: "x".repeat(16_777_216) } });
    expect(large.status).toBe(413);
  });

  it("a model that is being prepared, with the time to wait", async () => {
    const { version: _version, ...announce } = anAnnounce({ state: "preparing" });
    await origin.announce("later", announce);
    const answer = await create({ version: "cogway/later", input: {} });
    expect(answer.status).toBe(503);
    expect(answer.headers.get("retry-after")).toBe("5");
    expect(await problemOf(answer)).toMatchObject({ code: "model.preparing", retry_after: 5 });
  });

  it("a model that cannot run here, with the reason", async () => {
    const { version: _version, ...announce } = anAnnounce({ state: "failed", reason: "It needs a GPU." });
    await origin.announce("gpu-only", announce);
    const answer = await create({ version: "cogway/gpu-only", input: {} });
    expect(answer.status).toBe(422);
    expect((await problemOf(answer)).detail).toContain("It needs a GPU.");
  });

  it("a private model of another account, as if there were none", async () => {
    const secret = anAnnounce({ visibility: "private" });
    await origin.announce("secret", secret);
    expect((await create({ version: "cogway/secret", input: { text: "x" } })).status).toBe(404);
    expect((await create({ version: secret.version?.id, input: { text: "x" } })).status).toBe(422);
    expect((await call("GET", "/v1/models/cogway/secret", { token: alice.token })).status).toBe(404);
  });

  it("more creates than the account's limit", async () => {
    const { token } = await anAccount({ creates_per_minute: 2 });
    const send = () => create({ version, input: { text: "x" } }, {}, token);
    expect((await send()).status).toBe(201);
    expect((await send()).status).toBe(201);
    const limited = await send();
    expect(limited.status).toBe(429);
    const problem = await problemOf(limited);
    expect(problem.code).toBe("rate.limited");
    expect(limited.headers.get("retry-after")).toBe(String(problem.retry_after));
    expect(limited.headers.get("x-should-retry")).toBe("true");
  });

  it("more creates than the account's limit, again by memory of the first refusal; a key is asked about all the same", async () => {
    // How long to wait is less by the time that passed.
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    const { id, token } = await anAccount({ creates_per_minute: 2 });
    const send = (headers = {}) => create({ version, input: { text: "x" } }, headers, token);
    const first = await send({ "idempotency-key": "kept" });
    expect((await send()).status).toBe(201);
    expect(spentFor(id)).toBeNull();
    const refusals = [await send(), await send(), await send()];
    expect(spentFor(id)).toBe(30_000);
    for (const refusal of refusals) {
      expect(await problemOf(refusal)).toMatchObject({ status: 429, code: "rate.limited", retry_after: 30 });
      expect(refusal.headers.get("ratelimit-policy")).toBe('"creates";q=2;w=60');
    }
    expect((await send({ "idempotency-key": "kept" })).headers.get("location")).toBe(first.headers.get("location"));
    expect((await send({ "idempotency-key": "other" })).status).toBe(429);
  });
});

describe("idempotency", () => {
  it("replays status and bytes to a key in either form", async () => {
    const body = JSON.stringify({ version, input: { text: "once" } });
    const first = await create(body, { "idempotency-key": "key-1" });
    const bytes = await first.text();
    for (const key of ["key-1", '"key-1"']) {
      const again = await create(body, { "idempotency-key": key });
      expect(again.status).toBe(201);
      expect(await again.text()).toBe(bytes);
      expect(again.headers.get("location")).toBe(first.headers.get("location"));
    }
  });

  it("makes one prediction out of many parallel requests", async () => {
    const body = { version, input: { text: "parallel" } };
    const answers = await Promise.all(Array.from({ length: 20 }, () => create(body, { "idempotency-key": "key-2" })));
    const ids = new Set<string>();
    for (const answer of answers) {
      expect([201, 409]).toContain(answer.status);
      if (answer.status === 201) ids.add((await predictionOf(answer)).id);
      else expect(answer.headers.get("retry-after")).toMatch(/^\d+$/);
    }
    expect(ids.size).toBe(1);
  });

  it("refuses the key for another body, and keeps keys of accounts apart", async () => {
    const headers = { "idempotency-key": "key-3" };
    await create({ version, input: { text: "a" } }, headers);
    const reused = await create({ version, input: { text: "b" } }, headers);
    expect(reused.status).toBe(422);
    expect((await problemOf(reused)).code).toBe("idempotency.key_reused");
    expect((await create({ version, input: { text: "b" } }, headers, bob.token)).status).toBe(201);
  });

  it("does not keep a refusal", async () => {
    const headers = { "idempotency-key": "key-4" };
    expect((await create({ version, input: {} }, headers)).status).toBe(422);
    expect((await create({ version, input: { text: "now right" } }, headers)).status).toBe(201);
  });
});

describe("read, cancel, list", () => {
  it("cancels a running prediction when the model has stopped", async () => {
    const { id } = await predictionOf(await create({ version, input: { text: "stop" } }));
    await origin.attemptOf(id);
    await origin.events(id, 0, [{ type: "started" }]);
    const canceling = call("POST", `/v1/predictions/${id}/cancel`, { token: alice.token });
    await vi.waitFor(() => expect(origin.cancels).toContain(id), { timeout: 5_000 });
    await origin.events(id, 1, [{ type: "finished", status: "canceled", metrics: {}, predict_time_s: 0.2 }]);
    const canceled = await predictionOf(await canceling);
    expect(canceled).toMatchObject({ id, status: "canceled" });
    const again = await call("POST", `/v1/predictions/${id}/cancel`, { token: alice.token });
    expect(await predictionOf(again)).toEqual(canceled);
  });

  it("lists in pages, newest first, each prediction once, forth and back", async () => {
    const { token } = await anAccount();
    const made = Array.from({ length: 103 }, () => create({ version, input: { text: "l" } }, {}, token));
    const ids = await Promise.all(made.map(async (answer) => (await predictionOf(await answer)).id));
    const first = PredictionPageSchema.parse(await (await call("GET", "/v1/predictions", { token })).json());
    expect(first.results.map((row) => row.id)).toHaveLength(100);
    expect(first.previous).toBeNull();
    expect(first.next).toMatch(new RegExp(`^${PUBLIC_URL}/v1/predictions\\?cursor=`));
    const second = PredictionPageSchema.parse(await (await call("GET", first.next ?? "", { token })).json());
    expect(second.next).toBeNull();
    const listed = [...first.results, ...second.results].map((row) => row.id);
    expect(new Set(listed)).toEqual(new Set(ids));
    expect(listed).toHaveLength(103);
    const back = PredictionPageSchema.parse(await (await call("GET", second.previous ?? "", { token })).json());
    expect(back.results.map((row) => row.id)).toEqual(first.results.map((row) => row.id));
    expect(back.previous).toBeNull();
    const newest = first.results[0]?.created_at ?? "";
    const since = await call("GET", `/v1/predictions?created_after=${newest}`, { token });
    expect(PredictionPageSchema.parse(await since.json()).results.length).toBeGreaterThan(0);
  });

  it("says why a prediction waits", async () => {
    await origin.announce("cold", anAnnounce());
    const made = await call("POST", "/v1/models/cogway/cold/predictions", {
      token: alice.token,
      body: { input: { text: "w" } },
    });
    const { id } = await predictionOf(made);
    await vi.waitFor(async () => {
      const waiting = await predictionOf(await call("GET", `/v1/predictions/${id}`, { token: alice.token }));
      expect(waiting).toMatchObject({
        status: "starting",
        waiting_for: { reason: expect.any(String), queue_position: 1 },
      });
    });
  });

  it("shows what only the account's list still has", async () => {
    const document = aDocument({ account_id: alice.id, data_removed: true, output: null });
    await accountStub(env, alice.id).settle([aSettlement(document)]);
    const path = `/v1/predictions/${document.id}`;
    expect(await predictionOf(await call("GET", path, { token: alice.token }))).toMatchObject({
      id: document.id,
      data_removed: true,
    });
    expect((await call("POST", `${path}/cancel`, { token: alice.token })).status).toBe(200);
    expect((await call("GET", path, { token: bob.token })).status).toBe(404);
  });

  it.each(["cursor=nonsense", "created_after=yesterday", "source=api"])("refuses the query %s", async (query) => {
    const answer = await call("GET", `/v1/predictions?${query}`, { token: alice.token });
    expect(answer.status).toBe(400);
    expect((await problemOf(answer)).code).toBe("request.malformed");
  });

  it("streams output to whoever has the address, from any event on", async () => {
    const { id, urls } = await predictionOf(await create({ version, input: { text: "s" } }));
    await origin.succeed(id, "line one\nline two");
    const stream = await call("GET", urls["stream"] ?? "", {
      token: "not a token",
      headers: { accept: "text/event-stream" },
    });
    expect(stream.headers.get("content-type")).toBe("text/event-stream");
    const text = await stream.text();
    expect(text).toContain("event: output\n");
    expect(text).toContain("data: line one\ndata: line two\n");
    expect(text).toContain("event: done\n");
    const [id1 = ""] = /^id: (.*)$/m.exec(text)?.slice(1) ?? [];
    const resumed = await call("GET", urls["stream"] ?? "", { headers: { "last-event-id": id1 } });
    const rest = await resumed.text();
    expect(rest).not.toContain("event: output");
    expect(text.endsWith(rest.replaceAll(/^:.*\n\n/gm, ""))).toBe(true);
    const altered = await call("GET", `${urls["stream"]}x`);
    expect(altered.status).toBe(404);
    expect((await problemOf(altered)).code).toBe("stream.not_found");
  });
});
