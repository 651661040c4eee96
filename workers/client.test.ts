/** The client of schema/client against the whole edge: what it asks for, what it repeats and what not, and that its waits end. */
import { env, exports } from "cloudflare:workers";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { Cogway, CogwayError, type PredictionEvent } from "../schema/client/index.ts";
import { newId } from "../schema/ids.ts";
import { hashToken, newToken } from "../schema/tokens.ts";
import { anAccount, anAnnounce, FakeOrigin, PUBLIC_URL } from "./testing/edge.ts";

type Account = Awaited<ReturnType<typeof anAccount>>;
type Fetch = (url: string, init: RequestInit) => Promise<Response>;

const RECEIVER = "https://receiver.example/hook";

let origin: FakeOrigin;
let version: string;
let account: Account;
const send: Fetch = (url, init) => exports.default.fetch(new Request(url, init));

beforeAll(async () => {
  origin = await FakeOrigin.join();
  const outside = globalThis.fetch;
  vi.stubGlobal("fetch", async (url: RequestInfo | URL, init?: RequestInit) =>
    String(url).startsWith(RECEIVER) ? new Response(null, { status: 204 }) : outside(url, init),
  );
  const text = { type: "array", items: { type: "string" }, "x-cog-array-type": "iterator" };
  version = await origin.announce("tokens", anAnnounce({}, text));
});
afterAll(() => vi.unstubAllGlobals());
beforeEach(async () => {
  account = await anAccount();
});

/** A client of the account. `through` may break what passes. */
function aClient(
  through: Fetch = send,
  change: { token?: string; timeoutMs?: number; retriesMax?: number } = {},
): Cogway {
  return new Cogway({ baseUrl: `${PUBLIC_URL}/v1/`, token: account.token, fetch: through, ...change });
}

/** Every request that passes, and a failure of those that `breaks` picks: before they are sent, or after. */
function recorded(breaks: (request: string, n: number) => "before" | "after" | Response | null): {
  through: Fetch;
  requests: { request: string; headers: Headers }[];
} {
  const requests: { request: string; headers: Headers }[] = [];
  const through: Fetch = async (url, init) => {
    const request = `${init.method ?? "GET"} ${new URL(url).pathname}`;
    const n = requests.filter((earlier) => earlier.request === request).length;
    requests.push({ request, headers: new Headers(init.headers) });
    const fault = breaks(request, n);
    if (fault instanceof Response) return fault;
    if (fault === "before") throw new TypeError("connection refused");
    const answer = await send(url, init);
    if (fault !== "after") return answer;
    await answer.body?.cancel();
    throw new TypeError("connection reset");
  };
  return { through, requests };
}

const failureOf = async (work: Promise<unknown>): Promise<CogwayError> => {
  const error = await work.then(
    () => expect.unreachable("it should have failed"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CogwayError);
  return error as CogwayError;
};
async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

describe("errors", () => {
  it("say what the API says", async () => {
    const refused = await failureOf(aClient().predictions.create({ version, input: { text: 1, count: 99 } }));
    expect(refused).toMatchObject({ status: 422, code: "input.invalid", retry_after: null });
    expect(refused.invalid_fields.map(({ field }) => field).toSorted()).toEqual(["input.count", "input.text"]);
    expect(refused.request_id).toMatch(/^[a-z2-7]{20}$/);
    expect(refused.message).toBe(`input.invalid: ${refused.detail}`);
    const wrong = await failureOf(aClient(send, { token: "wrong" }).tokens.get("x"));
    expect(wrong).toMatchObject({ status: 401, code: "auth.unauthenticated" });
  });

  it("name what is between us and the API", async () => {
    const proxy = () => new Response("<h1>Bad gateway</h1>", { status: 502, headers: { "x-should-retry": "false" } });
    const failed = await failureOf(aClient(async () => proxy()).tokens.get("x"));
    expect(failed).toMatchObject({ status: 502, code: "client.unexpected" });
    expect(failed.detail).toContain("Bad gateway");
    const noJson = await failureOf(aClient(async () => new Response("hello")).tokens.get("x"));
    expect(noJson).toMatchObject({ status: 200, code: "client.unexpected" });
  });

  it("tell of no answer in time", async () => {
    const never: Fetch = (_url, { signal }) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason));
      });
    const failed = await failureOf(aClient(never, { timeoutMs: 30, retriesMax: 0 }).tokens.get("x"));
    expect(failed).toMatchObject({ status: 0, code: "client.timeout" });
    const signal = AbortSignal.timeout(30);
    await expect(aClient(never).tokens.get("x", { signal })).rejects.toMatchObject({ name: "TimeoutError" });
  });
});

describe("retries", () => {
  it("of a create whose answer was lost make one prediction", async () => {
    const { through, requests } = recorded((_request, n) => (n < 2 ? "after" : null));
    const client = aClient(through);
    const { id } = await client.predictions.create({ version, input: { text: "once" } });
    expect(new Set(requests.map(({ headers }) => headers.get("idempotency-key"))).size).toBe(1);
    expect(requests).toHaveLength(3);
    const listed = await send(`${PUBLIC_URL}/v1/predictions`, {
      headers: { authorization: `Bearer ${account.token}` },
    });
    expect((await listed.json<{ results: { id: string }[] }>()).results.map((row) => row.id)).toEqual([id]);
  });

  it("never repeat what a broken connection may have done", async () => {
    const { through, requests } = recorded(() => "after");
    const failed = await failureOf(aClient(through).tokens.create({ name: "x", scopes: ["account:read"] }));
    expect(failed).toMatchObject({ status: 0, code: "client.unreachable" });
    expect(requests).toHaveLength(1);
    expect(await all(aClient().tokens.list())).toHaveLength(2);
  });

  it("read again over broken connections, and give up after some", async () => {
    const mended = recorded((_request, n) => (n === 0 ? "before" : null));
    expect(await all(aClient(mended.through).tokens.list())).toHaveLength(1);
    const broken = recorded(() => "before");
    const failed = await failureOf(all(aClient(broken.through, { retriesMax: 2 }).tokens.list()));
    expect(failed.code).toBe("client.unreachable");
    expect(broken.requests).toHaveLength(3);
  });

  it("wait as long as they are told, and no longer than a minute", async () => {
    const limited = (seconds: number) => new Response("", { status: 429, headers: { "retry-after": String(seconds) } });
    const near = recorded((_request, n) => (n === 0 ? limited(1) : null));
    const before = Date.now();
    await aClient(near.through).tokens.create({ name: "x", scopes: ["account:read"] });
    expect(Date.now() - before).toBeGreaterThan(900);
    expect(near.requests).toHaveLength(2);
    const far = recorded(() => limited(61));
    const failed = await failureOf(all(aClient(far.through).tokens.list()));
    expect(failed).toMatchObject({ status: 429, retry_after: 61 });
    expect(far.requests).toHaveLength(1);
  });
});

describe("waits", () => {
  it("follow the stream to the end, through breaks, and give the ended prediction", async () => {
    const cut = (answer: Response): Response => {
      const reader = answer.body?.getReader();
      return new Response(
        new ReadableStream<Uint8Array>({
          async pull(controller) {
            const read = await reader?.read();
            if (read?.value !== undefined) controller.enqueue(read.value);
            await reader?.cancel();
            controller.error(new TypeError("connection reset"));
          },
        }),
        answer,
      );
    };
    let streams = 0;
    const through: Fetch = async (url, init) => {
      const answer = await send(url, init);
      if (!url.includes("/streams/")) return answer;
      expect(new Headers(init.headers).has("authorization")).toBe(false);
      streams += 1;
      return streams < 3 ? cut(answer) : answer;
    };
    const client = aClient(through);
    const made = await client.predictions.create({ model: "cogway/tokens", input: { text: "x" } }, { retention: "2h" });
    const events: PredictionEvent[] = [];
    const following = (async () => {
      for await (const event of client.predictions.events(made)) events.push(event);
    })();
    const waiting = client.predictions.wait(made.id);
    await origin.attemptOf(made.id);
    await origin.events(made.id, 0, [{ type: "started" }]);
    for (const [i, value] of ["Hel", "lo\n", " world", "\u2028!"].entries()) {
      await origin.events(made.id, 1 + i, [{ type: "output", mode: "append", value }]);
    }
    await origin.events(made.id, 5, [{ type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 }]);
    await following;
    const outputs = events.filter(({ event }) => event === "output").map(({ data }) => data);
    expect(outputs.join("")).toBe("Hello\n world\u2028!");
    expect(events.at(-1)).toMatchObject({ event: "done", data: "{}" });
    expect(new Set(events.map(({ id }) => id)).size).toBe(events.length);
    const ended = await waiting;
    expect(ended).toMatchObject({ id: made.id, status: "succeeded", output: ["Hel", "lo\n", " world", "\u2028!"] });
    expect(Date.parse(ended.expires_at ?? "") - Date.parse(ended.completed_at ?? "")).toBe(7_200_000);
  });

  it("ask where the stream is no help, and are bounded in time", async () => {
    const noStream: Fetch = async (url, init) =>
      url.includes("/streams/") ? new Response("", { status: 404 }) : send(url, init);
    const client = aClient(noStream);
    const made = await client.predictions.create({ version, input: { text: "x" } });
    const failed = await failureOf(client.predictions.wait(made.id, { timeoutMs: 300 }));
    expect(failed.code).toBe("client.timeout");
    const stopped = client.predictions.wait(made.id, { signal: AbortSignal.timeout(300) });
    await expect(stopped).rejects.toMatchObject({ name: "TimeoutError" });
    const waiting = client.predictions.wait(made.id);
    await origin.succeed(made.id, ["x"]);
    expect((await waiting).status).toBe("succeeded");
    // one that ended stays as it is
    expect((await client.predictions.cancel(made.id)).status).toBe("succeeded");
  });

  it("run from the request to the end in one call", async () => {
    const running = aClient().predictions.run({ version, input: { text: "run" } }, { wait: 1, cancelAfter: "1h" });
    const attempt = await vi.waitFor(
      async () => {
        await origin.bringUp();
        const start = origin.attempts.find(({ input }) => input?.["text"] === "run");
        if (start === undefined) throw new Error("no attempt yet");
        return start;
      },
      { timeout: 10_000, interval: 20 },
    );
    await origin.events(attempt.prediction_id, 0, [
      { type: "started" },
      { type: "finished", status: "failed", error: "no", metrics: {}, predict_time_s: 0.1 },
    ]);
    expect(await running).toMatchObject({ id: attempt.prediction_id, status: "failed", error: "no" });
  });
});

describe("batches", () => {
  it("run, and give each result once though the download breaks", async () => {
    let opened = 0;
    const through: Fetch = async (url, init) => {
      const answer = await send(url, init);
      if (!url.endsWith("/results") || !answer.ok) return answer;
      opened += 1;
      if (opened > 1) return answer;
      // breaks off in the middle of the second line
      const text = new TextDecoder().decode(await answer.arrayBuffer());
      const part = text.slice(0, text.indexOf("\n") + 10);
      return new Response(
        new ReadableStream<Uint8Array>({
          pull(controller) {
            controller.enqueue(new TextEncoder().encode(part));
            controller.error(new TypeError("connection reset"));
          },
        }),
        answer,
      );
    };
    const client = aClient(through);
    const inputs = ["\u00e9in", "zwei", "drei"].map((text) => ({ text }));
    const made = await client.batches.create({ version, inputs, max_concurrency: 2 });
    expect(made.counts.total).toBe(3);
    expect((await failureOf(all(client.batches.results(made.id)))).status).toBe(409);
    const waiting = client.batches.wait(made.id);
    const ran = new Set<string>();
    await vi.waitFor(
      async () => {
        await origin.bringUp();
        const mine = origin.attempts.filter(({ input }) => inputs.some(({ text }) => input?.["text"] === text));
        for (const { prediction_id, input } of mine) {
          if (ran.has(prediction_id)) continue;
          ran.add(prediction_id);
          await origin.succeed(prediction_id, [input?.["text"]]);
        }
        if (ran.size < 3) throw new Error("not all yet");
      },
      { timeout: 10_000, interval: 20 },
    );
    expect((await waiting).status).toBe("succeeded");
    const results = await all(client.batches.results(made.id));
    expect(results.map(({ index, output }) => [index, output])).toEqual([
      [0, ["\u00e9in"]],
      [1, ["zwei"]],
      [2, ["drei"]],
    ]);
    expect(opened).toBe(2);
    expect((await all(client.batches.list())).map(({ id }) => id)).toEqual([made.id]);
  });
});

describe("the rest", () => {
  it("makes tokens, organizations and members", async () => {
    const client = aClient();
    const other = await anAccount();
    const username = `o${newId(10)}`;
    const made = await client.organizations.create({ username, name: "Acme" });
    expect(await client.organizations.get(username)).toEqual(made);
    expect((await client.organizations.rename(username, "Acme 2")).name).toBe("Acme 2");
    expect(await client.organizations.putMember(username, other.username, "admin")).toMatchObject({ role: "admin" });
    expect((await all(client.organizations.members(username))).map((member) => member.username).toSorted()).toEqual(
      [account.username, other.username].toSorted(),
    );
    await client.organizations.removeMember(username, other.username);
    expect((await all(client.organizations.list())).map((organization) => organization.name)).toEqual(["Acme 2"]);
    const { id, token } = await client.tokens.create({ name: "ci", scopes: ["account:read"], account: username });
    expect((await all(client.tokens.list({ account: username }))).map((row) => row.id)).toEqual([id]);
    expect(await aClient(send, { token }).organizations.get(username)).toMatchObject({ username });
    await client.tokens.revoke(id);
    expect((await client.tokens.get(id)).revoked).toBe(true);
  });

  it("follows a list over its pages, at its own base", async () => {
    const client = aClient();
    const insert = env.DB.prepare(
      "INSERT INTO tokens (hash, account_id, scopes, last_four, created_at) VALUES (?, ?, '[]', 'abcd', 1)",
    );
    await env.DB.batch(Array.from({ length: 105 }, () => insert.bind(hashToken(newToken()), account.id)));
    expect(new Set((await all(client.tokens.list())).map(({ id }) => id)).size).toBe(106);
  });

  it("shares models, tells of releases, and tells of webhooks and replays them", async () => {
    const client = aClient();
    const other = await anAccount();
    const model = { owner: account.username, name: "mine", visibility: "private", hardware: "cpu" };
    const headers = { authorization: `Bearer ${account.token}`, "content-type": "application/json" };
    const created = await send(`${PUBLIC_URL}/v1/models`, { method: "POST", headers, body: JSON.stringify(model) });
    expect(created.status).toBe(201);
    const reference = `${account.username}/mine`;
    expect(await client.shares.put(reference, other.username)).toMatchObject({ account: { username: other.username } });
    expect(await all(client.shares.list(reference))).toHaveLength(1);
    await client.shares.remove(reference, other.username);
    expect(await all(client.shares.list(reference))).toEqual([]);

    const configuration = {
      name: "d",
      model: "cogway/tokens",
      version,
      hardware: "cpu",
      min_instances: 0,
      max_instances: 1,
    };
    await send(`${PUBLIC_URL}/v1/deployments`, { method: "POST", headers, body: JSON.stringify(configuration) });
    const deployment = `${account.username}/d`;
    const updated = await client.deployments.update(deployment, { max_instances: 2 });
    expect(updated.current_release.number).toBe(2);
    expect((await all(client.deployments.releases(deployment))).map(({ number }) => number)).toEqual([2, 1]);
    expect((await client.deployments.get(deployment)).status?.queue_length).toBe(0);
    expect(await client.predictions.create({ deployment, input: { text: "x" } })).toMatchObject({
      model: "cogway/tokens",
    });

    const estimate = await client.estimates.create({ version, input: { text: "x" }, cancel_after: "60s" });
    expect(estimate).toMatchObject({ currency: "usd", basis: { deadline_s: 60 } });
    const budget = { day_micros: 1_000_000, month_micros: null };
    expect(await client.billing.update({ budget })).toMatchObject({ budget });
    expect((await client.billing.usage({ group_by: ["model"] })).group_by).toEqual(["model"]);
    expect(await all(client.billing.ledger())).toEqual([expect.objectContaining({ subject: "credit:welcome" })]);
    const month = new Date().toISOString().slice(0, 7);
    expect((await all(client.billing.invoices())).map((invoice) => invoice.month)).toContain(month);
    expect(await client.billing.invoice(month)).toMatchObject({ month, is_final: false });
    expect(await (await client.billing.invoiceCsv(month)).text()).toMatch(/^date,subject,kind/);

    expect((await client.webhooks.secret()).key).toMatch(/^whsec_/);
    expect((await client.webhooks.rotateSecret()).key).toMatch(/^whsec_/);
    const { id } = await client.predictions.create({ version, input: { text: "x" }, webhook: RECEIVER });
    await origin.succeed(id, ["x"]);
    const log = await vi.waitFor(async () => {
      const events = await all(client.predictions.webhooks(id));
      if (!events.some(({ event }) => event === "completed")) throw new Error("not yet");
      return events;
    });
    const completed = log.find(({ event }) => event === "completed");
    expect(await client.predictions.replayWebhook(id, "completed")).toMatchObject({ id: completed?.id });
  });
});
