/** What local workerd hides, seen through the whole edge: objects that are evicted or reset between any two calls, and rows that grow above 2 MB. */
import {
  abortAllDurableObjects,
  evictAllDurableObjects,
  listDurableObjectIds,
  runInDurableObject,
} from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { parseStream } from "../durable-objects/testing/prediction-world.ts";
import { largestRow, ROW_BYTES_MAX } from "../durable-objects/testing/rows.ts";
import {
  anAccount,
  anAnnounce,
  call,
  FakeOrigin,
  predictionOf,
  theOperator,
  type WirePrediction,
} from "./testing/edge.ts";

let origin: FakeOrigin;
let version: string;
let alice: { id: string; token: string };

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce(
    "echo",
    anAnnounce({}, { type: "array", items: { type: "string" }, "x-cog-array-type": "iterator" }),
  );
  alice = await anAccount();
  // An instance is up before anything is lost: objects that call each other while they are evicted wait seconds for that.
  const first = await create({ text: "first" });
  await origin.succeed(first.id, ["a"]);
});

const read = async (path: string): Promise<WirePrediction> =>
  predictionOf(await call("GET", path, { token: alice.token }));

async function create(input: unknown, more: Record<string, unknown> = {}, key?: string): Promise<WirePrediction> {
  const headers = key === undefined ? {} : { "idempotency-key": key };
  return predictionOf(
    await call("POST", "/v1/predictions", { token: alice.token, body: { version, input, ...more }, headers }),
  );
}

async function stream(prediction: WirePrediction, lastEventId?: string) {
  const { pathname } = new URL(prediction.urls["stream"] ?? "");
  const headers = lastEventId === undefined ? {} : { "last-event-id": lastEventId };
  const answer = await call("GET", pathname, { headers });
  return parseStream(await answer.text());
}

describe("losing all objects between any two calls", () => {
  it.each([
    ["evicted", evictAllDurableObjects],
    ["reset", abortAllDurableObjects],
  ])("changes nothing that a caller sees: %s", async (_how, lose) => {
    const created = await create({ text: "hi" }, {}, `key ${_how}`);
    await lose();
    expect((await read(`/v1/predictions/${created.id}`)).status).toBe("starting");
    await lose();
    await origin.attemptOf(created.id);
    for (const [i, event] of (
      [
        { type: "started" },
        { type: "output", mode: "append", value: "a" },
        { type: "log", source: "stdout", data: "line\n" },
        { type: "output", mode: "append", value: "b" },
        { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.25 },
      ] as const
    ).entries()) {
      await lose();
      expect(await origin.events(created.id, i, [event])).toMatchObject([{ outcome: "stored", through_i: i }]);
      await lose();
      const { status } = await read(`/v1/predictions/${created.id}`);
      expect(status).toBe(event.type === "finished" ? "succeeded" : "processing");
    }
    await lose();
    const ended = await read(`/v1/predictions/${created.id}`);
    expect(ended).toMatchObject({ output: ["a", "b"], logs: "line\n", metrics: { predict_time: 0.25 } });
    const all = await stream(ended);
    expect(all.map(({ data }) => data)).toEqual(["a", "line\n", "b", "{}"]);
    for (const [n, { id }] of all.entries()) {
      await lose();
      expect(await stream(ended, id)).toEqual(all.slice(n + 1));
    }
    await lose();
    // The end reaches the list though whoever owed it to the account was lost.
    const { results } = (await read("/v1/predictions")) as unknown as { results: WirePrediction[] };
    expect(results.find(({ id }) => id === created.id)).toMatchObject({ status: "succeeded" });
    expect((await create({ text: "hi" }, {}, `key ${_how}`)).id).toBe(created.id);
    // Its slot is free again.
    const next = await create({ text: "next" });
    await origin.succeed(next.id, ["c"]);
    await vi.waitFor(async () => expect((await read(`/v1/predictions/${next.id}`)).status).toBe("succeeded"));
  });
});

describe("rows of all objects", () => {
  /** An input whose JSON, as it is stored, has so many bytes. */
  function inputOf(bytes: number, character = "x"): Record<string, unknown> {
    const empty = JSON.stringify({ text: "", count: 3, color: "red" }).length;
    return { text: character.repeat((bytes - empty) / new TextEncoder().encode(character).length) };
  }
  const KIB_256 = 262_144;

  it.each<[string, Record<string, unknown>, Record<string, unknown>?]>([
    ["an input of 256 KiB less one byte", inputOf(KIB_256 - 1)],
    ["an input of 256 KiB", inputOf(KIB_256)],
    ["an input of 256 KiB and one byte", inputOf(KIB_256 + 1)],
    ["an input of 3 MiB of three-byte characters", inputOf(3 * 1_048_576, "語")],
    ["a large input with a secret", { ...inputOf(3 * 1_048_576), key: "s3cret" }],
    ["a large secret", { text: "t", key: "k".repeat(3_000_000) }],
    ["an unknown member with a name of 3 MiB", { text: "t", ["n".repeat(3 * 1_048_576)]: 1 }],
    [
      "100,000 unknown members",
      { text: "t", ...Object.fromEntries(Array.from({ length: 100_000 }, (_, n) => [`n${n}`, n])) },
    ],
    [
      "a filter that says the same 300,000 times",
      { text: "t" },
      { webhook_events_filter: Array(300_000).fill("start") },
    ],
  ])("stay below the platform's bound with %s, and nothing of it is lost", async (name, input, more = {}) => {
    const prediction = await create(input, more, name);
    await origin.succeed(prediction.id, ["done"]);
    const ended = await read(`/v1/predictions/${prediction.id}`);
    expect(ended.status).toBe("succeeded");
    expect(ended.input["text"] === input["text"]).toBe(true);
    expect(ended.input["key"]).toBe("key" in input ? "[REDACTED]" : undefined);
    expect(ended.logs.length).toBeLessThan(10_000);
    expect((await create(input, more, name)).id).toBe(prediction.id);
    const platform = [env.PREDICTIONS, env.ACCOUNTS, env.DEPLOYMENTS, env.FLEETS, env.RUN_COUNTERS, env.AUDITS];
    for (const namespace of [...platform, env.SEARCHES, env.BUILDS, env.CANARIES]) {
      for (const id of await listDurableObjectIds(namespace as unknown as DurableObjectNamespace)) {
        const stub = (namespace as unknown as DurableObjectNamespace).get(id);
        const { table, bytes } = await runInDurableObject(stub, (_object, state) => largestRow(state));
        expect(bytes, table).toBeLessThan(ROW_BYTES_MAX);
      }
    }
  });
});
