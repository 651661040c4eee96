/** One batch over real SQLite and R2, between PredictionObjects that are only pretended: what is lost on the way is done again, and once. */
import { env } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { traceIdOf } from "../schema/tracing.ts";
import { BatchObject } from "./batch.ts";
import type { BatchInput, CreateBatch } from "./batch-contract.ts";
import { resultsKey } from "./batch-results.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import {
  aDocument,
  aPredictionId,
  aSpec,
  envWith,
  freshName,
  passTime,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";

stopClockInEachTest();

const HOUR_MS = 3_600_000;

function aBatch(change: Partial<CreateBatch> = {}): CreateBatch {
  return {
    id: aPredictionId(),
    account_id: "alice",
    spec: aSpec(),
    shown_version: "a".repeat(64),
    stream_kind: "text",
    source: "api",
    max_concurrency: 2,
    retention_ms: HOUR_MS,
    created_at: Date.now(),
    ...change,
  };
}

function inputs(count: number): BatchInput[] {
  return Array.from({ length: count }, (_, index) => ({
    index,
    custom_id: null,
    input: { text: `n${index}` },
    shown_input: null,
    log_lines: [],
  }));
}

interface World {
  batch: BatchObject;
  /** drops the object's memory */
  restart: () => BatchObject;
  rows: (sql: string) => Record<string, SqlStorageValue>[];
  created: CreatePrediction[];
  canceled: string[];
  /** whether creates reach their object */
  isReachable: boolean;
}

function withBatch(test: (world: World) => Promise<void>): Promise<void> {
  return withObject("BATCHES", freshName(), async (state) => {
    const world: Omit<World, "batch"> = {
      created: [],
      canceled: [],
      isReachable: true,
      restart: () => {
        world_.batch = new BatchObject(state as never, fakes);
        return world_.batch;
      },
      rows: (sql) => state.storage.sql.exec(sql).toArray(),
    };
    const fakes = envWith({
      predictions: {
        create: async (request) => {
          if (!world_.isReachable) throw new Error("away");
          world_.created.push(request);
          return { document: aDocument({ id: request.id, state: "queued" }), settled: false };
        },
        cancel: async (id) => {
          world_.canceled.push(id);
          return aDocument({ id, state: "canceled" });
        },
      },
    });
    const world_: World = Object.assign(world, { batch: new BatchObject(state as never, fakes) });
    await test(world_);
  });
}

function end(world: World, index: number, change: Partial<PredictionDocument> = {}): Promise<void> {
  const created = world.created.find((request) => request.batch?.index === index);
  if (created === undefined) throw new Error(`${index} was not created`);
  const document = aDocument({ id: created.id, output: `out ${index}`, ...change });
  return world.batch.settled([{ index, prediction_id: created.id, document }]);
}

async function begin(world: World, count: number, change: Partial<CreateBatch> = {}): Promise<CreateBatch> {
  const request = aBatch(change);
  await world.batch.create(request);
  await world.batch.append(inputs(count));
  await world.batch.seal();
  return request;
}

const untilCreated = (world: World, count: number): Promise<void> =>
  vi.waitFor(() => expect(world.created).toHaveLength(count));

/** Rings what is due now. */
async function ring(world: World, afterMs: number): Promise<void> {
  passTime(afterMs);
  await world.batch.alarm();
}

async function resultsOf(id: string): Promise<Record<string, unknown>[]> {
  const object = await env.FILES.get(resultsKey(id));
  if (object === null) throw new Error("there are no results");
  return (await object.text())
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

describe("a batch", () => {
  it("guarantees one prediction for each input through restarts, and no more at once than allowed", () =>
    withBatch(async (world) => {
      const { id } = await begin(world, 5);
      await untilCreated(world, 2);
      for (let index = 0; index < 5; index++) {
        world.restart();
        await end(world, index);
        await untilCreated(world, Math.min(index + 3, 5));
      }
      await ring(world, 1);
      expect(await world.batch.get("alice")).toMatchObject({ state: "succeeded", counts: { total: 5, succeeded: 5 } });
      expect(new Set(world.created.map((request) => request.id)).size).toBe(5);
      expect(world.created.every((request) => request.batch?.batch_id === id)).toBe(true);
      expect((await resultsOf(id)).map((row) => row["output"])).toEqual([0, 1, 2, 3, 4].map((i) => `out ${i}`));
    }));

  it("guarantees that a create that was lost is made again with the same id", () =>
    withBatch(async (world) => {
      world.isReachable = false;
      await begin(world, 1);
      const named = await vi.waitFor(() => {
        const [row] = world.rows("SELECT prediction_id FROM inputs WHERE state = 'running'");
        if (row === undefined) throw new Error("not started yet");
        return row["prediction_id"];
      });
      world.isReachable = true;
      world.restart();
      await ring(world, 61_000);
      expect(world.created.map((request) => request.id)).toEqual([named]);
    }));

  it("guarantees each of its predictions a trace of its own, the same when it is made again, with spans where its caller wants some", async () => {
    for (const flags of ["00", "01"]) {
      await withBatch(async (world) => {
        await begin(world, 2, { traceparent: `00-${"a".repeat(32)}-${"b".repeat(16)}-${flags}` });
        await untilCreated(world, 2);
        world.restart();
        await ring(world, 61_000);
        await untilCreated(world, 4);
        const traces = new Map(world.created.map(({ id, traceparent }) => [id, traceparent]));
        expect(new Set(world.created.map(({ traceparent }) => traceparent))).toEqual(new Set(traces.values()));
        expect(new Set([...traces.values()].map(traceIdOf)).size).toBe(2);
        for (const one of traces.values()) expect(one).toMatch(new RegExp(`^00-[0-9a-f]{32}-[0-9a-f]{16}-${flags}$`));
      });
    }
  });

  it("guarantees that an end told twice, or of another prediction, counts once", () =>
    withBatch(async (world) => {
      const { id } = await begin(world, 1);
      await untilCreated(world, 1);
      const stranger = aDocument({ output: "else" });
      await world.batch.settled([{ index: 0, prediction_id: stranger.id, document: stranger }]);
      await end(world, 0, { state: "failed", output: null, error: "broke" });
      await end(world, 0);
      await ring(world, 1);
      expect(await world.batch.get("alice")).toMatchObject({ counts: { failed: 1, succeeded: 0 } });
      expect(await resultsOf(id)).toMatchObject([{ status: "failed", output: null, error: "broke" }]);
      await ring(world, 1);
      expect(await resultsOf(id)).toHaveLength(1);
    }));

  it("guarantees that a cancel reaches what runs though the object is gone in between", () =>
    withBatch(async (world) => {
      await begin(world, 3);
      await untilCreated(world, 2);
      const canceling = world.batch.cancel("alice");
      await vi.waitFor(() => expect(world.rows("SELECT i FROM inputs WHERE state = 'running'")).toEqual([]));
      await ring(world, 1);
      expect(await canceling).toMatchObject({ state: "canceled" });
      world.restart();
      expect(world.canceled).toHaveLength(2);
      expect(await world.batch.get("alice")).toMatchObject({ state: "canceled", counts: { canceled: 3 } });
      expect(world.created).toHaveLength(2);
    }));

  it("guarantees results of any size", () =>
    withBatch(async (world) => {
      const { id } = await begin(world, 2);
      await untilCreated(world, 2);
      const large = "x".repeat(9_000_000);
      await end(world, 1, { output: large });
      await end(world, 0);
      await ring(world, 1);
      expect((await resultsOf(id)).map((row) => String(row["output"]).length)).toEqual([5, large.length]);
      expect((await env.FILES.list({ prefix: `batches/${id}/results/` })).objects).toEqual([]);
    }));

  it("guarantees that inputs with secrets are stored sealed, and gone when they ended", () =>
    withBatch(async (world) => {
      await world.batch.create(aBatch());
      await world.batch.append([
        { index: 0, custom_id: null, input: { key: "hunter2" }, shown_input: { key: "**" }, log_lines: [] },
      ]);
      expect(JSON.stringify(world.rows("SELECT * FROM inputs"))).not.toContain("hunter2");
      await world.batch.seal();
      await untilCreated(world, 1);
      expect(world.created[0]).toMatchObject({ input: { key: "hunter2" }, shown_input: { key: "**" } });
      await end(world, 0);
      expect(world.rows("SELECT input, shown_input FROM inputs")).toEqual([{ input: null, shown_input: null }]);
    }));

  it("guarantees that nobody sees one that is not sealed, and that nothing is left of it", () =>
    withBatch(async (world) => {
      await world.batch.create(aBatch());
      await world.batch.append(inputs(3));
      expect(await world.batch.get("alice")).toBeNull();
      await ring(world, 600_001);
      expect(world.rows("SELECT name FROM sqlite_master WHERE name IN ('batch', 'inputs')")).toEqual([]);
    }));

  it("guarantees that its data goes after its retention, and its counts stay", () =>
    withBatch(async (world) => {
      const { id } = await begin(world, 1);
      await untilCreated(world, 1);
      await end(world, 0);
      await ring(world, 1);
      await ring(world, HOUR_MS);
      expect(await world.batch.get("alice")).toMatchObject({ data_removed: true, counts: { succeeded: 1 } });
      expect(await env.FILES.head(resultsKey(id))).toBeNull();
    }));
});
