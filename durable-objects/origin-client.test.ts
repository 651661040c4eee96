import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { AttemptStateSchema } from "../schema/origin-protocol.ts";
import { verifyRequest } from "../schema/request-signature.ts";
import { attemptState, startAttempt } from "./origin-client.ts";
import { forgetOrigins, originEntry, originSecret } from "./origin-directory.ts";
import { aPredictionId, envWith, passTime, stopClockInEachTest } from "./testing/harness.ts";

stopClockInEachTest();

describe("calls to an origin", () => {
  beforeEach(forgetOrigins);
  afterEach(forgetOrigins);

  const start = () => ({
    protocol: 1 as const,
    prediction_id: aPredictionId(),
    attempt: 1,
    instance_id: "instance1",
    version_id: "a".repeat(64),
    account_id: "alice",
    input: { text: "hello" },
  });

  function envOf(origin: (request: Request) => Promise<Response> | Response, onAsk = () => {}): Env {
    const entry = {
      origin_id: "o",
      url: "http://127.0.0.1:9/base/",
      key: { key_id: "k", secret: "c2VjcmV0" },
      alive: true,
    };
    return envWith({
      origin,
      fleet: {
        origins: async () => {
          onAsk();
          return [entry];
        },
        keys: async () => [{ origin_id: "o", key_id: "k", secret: "c2VjcmV0" }],
      },
    });
  }

  it("guarantees a signed start with a parsed answer, sent once more when the connection broke", async () => {
    let calls = 0;
    const nonces = new Set<string>();
    const env = envOf(async (request) => {
      calls += 1;
      if (calls === 1) throw new TypeError("connection reset");
      const body = await request.text();
      const { pathname } = new URL(request.url);
      const header = (name: string) => request.headers.get(name);
      const verified = verifyRequest(
        { method: request.method, path: pathname, body, header },
        () => "c2VjcmV0",
        Date.now(),
      );
      if (!verified.ok) return new Response(verified.reason, { status: 401 });
      nonces.add(verified.nonce);
      const { prediction_id, attempt } = JSON.parse(body) as { prediction_id: string; attempt: number };
      expect(pathname).toBe(`/base/v1/attempts/${prediction_id}/${attempt}`);
      const state = { prediction_id, attempt, state: "running", started: true, last_event_i: -1 };
      return Response.json(AttemptStateSchema.parse(state), { status: 202 });
    });
    expect(await startAttempt(env, "o", start())).toMatchObject({ kind: "accepted", state: { state: "running" } });
    expect([calls, nonces.size]).toEqual([2, 1]);
  });

  it("guarantees that each failure is told apart", async () => {
    const outcome = async (origin: (request: Request) => Promise<Response> | Response) => {
      forgetOrigins();
      return startAttempt(envOf(origin), "o", start());
    };
    const refusal = { code: "instance.unknown", detail: "There is no such instance." };
    expect(await outcome(() => Response.json(refusal, { status: 404 }))).toEqual({ kind: "refused", ...refusal });
    expect(await outcome(() => new Response("?", { status: 418 }))).toMatchObject({
      kind: "refused",
      code: "http.418",
    });
    expect(await outcome(() => new Response("?", { status: 502 }))).toMatchObject({ kind: "unreachable" });
    expect(await outcome(() => Response.json({ not: "ours" }))).toMatchObject({ kind: "unreachable" });
    expect(await outcome(() => Response.redirect("http://127.0.0.1:9/else"))).toMatchObject({ kind: "unreachable" });
    expect(await outcome(() => Promise.reject(new TypeError("refused")))).toMatchObject({ kind: "unreachable" });
    const unknown = envOf(() => Response.json({ code: "attempt.unknown", detail: "" }, { status: 404 }));
    expect(await attemptState(unknown, "o", aPredictionId(), 1)).toEqual({ kind: "unknown" });
    expect(await startAttempt(unknown, "nobody", start())).toMatchObject({ kind: "unreachable" });
  });

  it("guarantees that the fleet is asked at most every 5 s, and once a second at most for what nobody knows", async () => {
    let asked = 0;
    const env = envOf(
      () => new Response(null),
      () => {
        asked += 1;
      },
    );
    for (let i = 0; i < 5; i++) await originEntry(env, "o");
    expect(asked).toBe(1);
    for (let i = 0; i < 5; i++) expect(await originSecret(env, "forged")).toBeNull();
    expect(asked).toBe(1);
    passTime(1_000);
    for (let i = 0; i < 5; i++) expect(await originSecret(env, "forged")).toBeNull();
    expect(asked).toBe(2);
    passTime(5_000);
    expect(await originSecret(env, "k")).toMatchObject({ origin_id: "o" });
    expect(await originSecret(env, "k")).toMatchObject({ origin_id: "o" });
    expect(asked).toBe(3);
    passTime(20_000);
    await originEntry(env, "o");
    expect(asked).toBe(4);
  });
});
