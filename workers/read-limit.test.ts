/** The limits that every answer tells of: reads in each isolate's memory, creates in the account's object. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { app } from "./app.ts";
import { anAccount, anAnnounce, call, FakeOrigin, PUBLIC_URL, problemOf } from "./testing/edge.ts";

let origin: FakeOrigin;
let version: string;
beforeAll(async () => {
  origin = await FakeOrigin.join();
  version = await origin.announce("limited", anAnnounce());
});
beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
});
afterEach(() => {
  vi.useRealTimers();
});

const pass = (ms: number) => vi.setSystemTime(Date.now() + ms);
const read = (token: string) => call("GET", "/v1/account", { token });
const create = (token: string) => call("POST", "/v1/predictions", { token, body: { version, input: { text: "x" } } });
const fieldsOf = ({ headers }: Response) =>
  ["ratelimit-policy", "ratelimit", "ratelimit-remaining", "ratelimit-reset"].map((name) => headers.get(name));

describe("reads", () => {
  it("may be 3,000 a minute, and every answer says how many are left", async () => {
    const { token } = await anAccount();
    expect(fieldsOf(await read(token))).toEqual(['"default";q=3000;w=60', '"default";r=2999;t=1', "2999", "1"]);
    expect(fieldsOf(await call("GET", "/v1/predictions/unknown", { token }))[2]).toBe("2998");
    expect(fieldsOf(await call("POST", "/v1/tokens", { token, body: {} }))[2]).toBe("2997");
    expect(fieldsOf(await call("GET", "/v1/account"))).toEqual([null, null, null, null]);
  });

  it("above the limit are refused as Replicate's are, with a time to wait that is true", async () => {
    const { token } = await anAccount({ reads_per_minute: 4 });
    for (let left = 3; left >= 0; left--) expect(fieldsOf(await read(token))[2]).toBe(String(left));
    const refused = await read(token);
    expect(refused.headers.get("retry-after")).toBe("15");
    expect(refused.headers.get("x-should-retry")).toBe("true");
    expect(fieldsOf(refused)).toEqual(['"default";q=4;w=60', '"default";r=0;t=15', "0", "15"]);
    expect(await problemOf(refused)).toMatchObject({
      status: 429,
      code: "rate.limited",
      retry_after: 15,
      detail: expect.stringMatching(/^Request was throttled\..* ~15s\.$/),
    });
    pass(14_999);
    expect((await read(token)).status).toBe(429);
    pass(1);
    expect((await read(token)).status).toBe(200);
    expect((await read(token)).status).toBe(429);
  });

  it("never pass the limit in any window, and one is admitted after each Retry-After", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 30 }),
        fc.array(fc.integer({ min: 0, max: 20_000 }), { minLength: 1, maxLength: 25 }),
        async (perMinute, pauses) => {
          const { token } = await anAccount({ reads_per_minute: perMinute });
          const admitted: number[] = [];
          for (const pause of pauses) {
            pass(pause);
            const answer = await read(token);
            if (answer.status === 429) {
              pass(Number(answer.headers.get("retry-after")) * 1_000);
              expect((await read(token)).status).toBe(200);
            }
            admitted.push(Date.now());
          }
          for (const [from, first] of admitted.entries()) {
            for (const [to, last] of admitted.entries()) {
              if (to < from) continue;
              expect(to - from + 1).toBeLessThanOrEqual(perMinute * (1 + (last - first) / 60_000) + 0.001);
            }
          }
        },
      ),
      { numRuns: 15 },
    );
  });

  it("of one account leave those of another alone", async () => {
    const [greedy, other] = await Promise.all([anAccount({ reads_per_minute: 1 }), anAccount({ reads_per_minute: 1 })]);
    expect((await read(greedy.token)).status).toBe(200);
    for (let i = 0; i < 100; i++) expect((await read(greedy.token)).status).toBe(429);
    expect((await read(other.token)).status).toBe(200);
  });

  it("forgive six retries without a pause", async () => {
    const { token } = await anAccount();
    const answers = await Promise.all(Array.from({ length: 6 }, () => read(token)));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 200]);
  });

  it("are not stopped by a clock that went back", async () => {
    const { token } = await anAccount({ reads_per_minute: 10 });
    pass(3_600_000);
    expect((await read(token)).status).toBe(200);
    pass(-3_600_000);
    expect(fieldsOf(await read(token))[2]).toBe("9");
  });

  it("are counted without a call to any object or the database", async () => {
    const { token } = await anAccount({ reads_per_minute: 3 });
    await read(token);
    const unreachable = new Proxy({}, { get: () => expect.unreachable("something was asked") });
    const alone = { ...env, DB: unreachable, ACCOUNTS: unreachable, PREDICTIONS: unreachable } as unknown as Env;
    const context = createExecutionContext();
    const headers = { authorization: `Bearer ${token}` };
    const ask = () => app.fetch(new Request(`${PUBLIC_URL}/v1/account`, { headers }), alone, context);
    expect([(await ask()).status, (await ask()).status, (await ask()).status]).toEqual([200, 200, 429]);
    await waitOnExecutionContext(context);
  });
});

describe("creates", () => {
  it("have their own limit, and leave the reads alone", async () => {
    const { token } = await anAccount({ creates_per_minute: 2, reads_per_minute: 2 });
    expect(fieldsOf(await create(token))).toEqual(['"creates";q=2;w=60', '"creates";r=1;t=30', "1", "30"]);
    expect((await create(token)).status).toBe(201);
    const refused = await create(token);
    expect(await problemOf(refused)).toMatchObject({ status: 429, code: "rate.limited", retry_after: 30 });
    expect(refused.headers.get("retry-after")).toBe("30");
    expect(fieldsOf(refused)).toEqual(['"creates";q=2;w=60', '"creates";r=0;t=30', "0", "30"]);
    expect([(await read(token)).status, (await read(token)).status, (await read(token)).status]).toEqual([
      200, 200, 429,
    ]);
    pass(30_000);
    expect((await create(token)).status).toBe(201);
  });

  it("forgive six retries without a pause, and are limited at 600", async () => {
    const { token } = await anAccount();
    expect(fieldsOf(await create(token))).toEqual(['"creates";q=600;w=60', '"creates";r=599;t=1', "599", "1"]);
    const answers = await Promise.all(Array.from({ length: 6 }, () => create(token)));
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 201, 201, 201, 201]);
  });
});

describe("what needs no token", () => {
  it("is counted by nobody", async () => {
    for (const path of ["/healthz", "/openapi.json", "/v1/streams/unknown", "/v1/nothing"]) {
      expect(fieldsOf(await call("GET", path))).toEqual([null, null, null, null]);
    }
  });
});
