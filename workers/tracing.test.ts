/** One trace from the request to the webhook: what callers see of it, what is logged, what goes to the origin, and what the collector gets. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { recordSpan, spanCounts } from "../durable-objects/telemetry.ts";
import type { Span } from "../schema/tracing.ts";
import { anAccount, anAnnounce, call, FakeOrigin, predictionOf, theOperator } from "./testing/edge.ts";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const TRACEPARENT = `00-${TRACE}-b7ad6b7169203331-01`;

let origin: FakeOrigin;
let token: string;
let version: string;
const webhooks: { headers: Headers; body: { trace_id?: string } }[] = [];

beforeAll(async () => {
  await theOperator();
  vi.stubGlobal("fetch", async (input: RequestInfo | URL, init?: RequestInit) => {
    const request = new Request(input, init);
    webhooks.push({ headers: request.headers, body: await request.json() });
    return new Response(null, { status: 204 });
  });
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  ({ token } = await anAccount());
});

const create = (headers: Record<string, string>, more: Record<string, unknown> = {}) =>
  call("POST", "/v1/predictions", { token, body: { version, input: { text: "x" }, ...more }, headers });

describe("the trace of a create", () => {
  it("is the caller's, in the answer, at the origin, in the log, in the webhook", async () => {
    const lines = vi.spyOn(console, "log").mockImplementation(() => {});
    onTestFinished(() => lines.mockRestore());
    const answer = await create({ traceparent: TRACEPARENT }, { webhook: "https://receiver.example/" });
    expect(answer.headers.get("traceparent")).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
    const made = await predictionOf(answer);
    expect(made["trace_id"]).toBe(TRACE);
    const attempt = await origin.attemptOf(made.id);
    expect(attempt.traceparent).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
    await origin.succeed(made.id, "y");
    await vi.waitFor(() => expect(webhooks.length).toBeGreaterThan(1));
    for (const { headers, body } of webhooks) {
      expect(body.trace_id).toBe(TRACE);
      expect(headers.get("traceparent")).toBe(attempt.traceparent);
    }
    await vi.waitFor(() => {
      const logged = lines.mock.calls.map(([line]) => String(line)).find((line) => line.includes(made.id));
      expect(JSON.parse(logged ?? "{}")).toMatchObject({ trace_id: TRACE, prediction_id: made.id, status: 201 });
    });
    expect((await predictionOf(await call("GET", `/v1/predictions/${made.id}`, { token })))["trace_id"]).toBe(TRACE);
  });

  it("is a new one where the caller has none, or one that is no trace", async () => {
    const ids = [];
    for (const headers of [{}, { traceparent: "00-nothing" }] as Record<string, string>[]) {
      const answer = await create(headers);
      const [, trace_id] = (answer.headers.get("traceparent") ?? "").split("-");
      const made = await predictionOf(answer);
      expect(made["trace_id"]).toBe(trace_id);
      ids.push(trace_id);
    }
    expect(new Set([...ids, TRACE]).size).toBe(3);
  });

  it("of a caller that wants no spans is passed on as such", async () => {
    const made = await predictionOf(await create({ traceparent: TRACEPARENT.replace(/01$/, "00") }));
    expect((await origin.attemptOf(made.id)).traceparent).toMatch(/-00$/);
  });
});

describe("the traces of a batch", () => {
  it("are one for each of its predictions, the same in its answer and at the origin", async () => {
    const before = origin.attempts.length;
    const body = { version, inputs: [{ text: "a" }, { text: "b" }], max_concurrency: 2 };
    const made = await call("POST", "/v1/batches", { token, body, headers: { traceparent: TRACEPARENT } });
    expect(made.status).toBe(201);
    const ran = await vi.waitFor(
      () => {
        const attempts = origin.attempts.slice(before);
        expect(attempts).toHaveLength(2);
        return attempts;
      },
      { timeout: 10_000 },
    );
    const traces = await Promise.all(
      ran.map(async ({ prediction_id, traceparent }) => {
        const shown = await predictionOf(await call("GET", `/v1/predictions/${prediction_id}`, { token }));
        expect(traceparent).toMatch(new RegExp(`^00-${shown["trace_id"]}-[0-9a-f]{16}-01$`));
        return shown["trace_id"];
      }),
    );
    expect(new Set([...traces, TRACE]).size).toBe(3);
    await Promise.all(ran.map(({ prediction_id }) => origin.succeed(prediction_id, "y")));
  });
});

describe("the exporter", () => {
  const span: Span = {
    trace_id: TRACE,
    span_id: "b7ad6b7169203331",
    parent_span_id: null,
    name: "x",
    kind: "server",
    start_ms: 1,
    end_ms: 2,
    attributes: {},
    error: null,
  };

  it("sends what came together in one call, and drops with a count what the collector does not take", async () => {
    const sent: string[] = [];
    let status = 200;
    vi.stubGlobal("fetch", async (_url: string, init: RequestInit) => {
      sent.push(String(init.body));
      return new Response(null, { status });
    });
    const traced = { ...env, OTLP_TRACES_URL: "https://collector.example/v1/traces" } as unknown as Env;
    const before = spanCounts();
    const record = async (times: number): Promise<void> => {
      const context = createExecutionContext();
      for (let n = 0; n < times; n++) recordSpan(traced, (work) => context.waitUntil(work), span);
      await waitOnExecutionContext(context);
    };
    await record(3);
    expect(sent).toHaveLength(1);
    expect(sent[0]?.match(/"traceId"/g)).toHaveLength(3);
    expect(spanCounts().exported - before.exported).toBe(3);
    status = 503;
    await record(2);
    // The collector is left alone for a while.
    await record(2);
    expect(sent).toHaveLength(2);
    expect(spanCounts().dropped - before.dropped).toBe(4);
  });

  it("keeps nothing where there is no collector", () => {
    const before = spanCounts();
    recordSpan(env, () => expect.unreachable("something was begun"), span);
    expect(spanCounts()).toEqual(before);
  });
});
