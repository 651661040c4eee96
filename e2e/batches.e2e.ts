/** 10,000 inputs in one batch, while the edge (workerd) is killed twice: each runs once, is metered once, and has its line of the results in its place. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Problem } from "./lib/api.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const INPUTS = 10_000;
/** About 100 s on two quiet cores. */
const BATCH_TIMEOUT_MS = 400_000;

interface Batch {
  id: string;
  status: string;
  counts: { total: number; pending: number; running: number; succeeded: number; failed: number; canceled: number };
}

let system: System;
beforeAll(async () => {
  system = await System.start({ models: ["tally", "noop"] });
});
afterAll(() => system?.stop());

/** Waits for `isWanted`; an edge that is away counts as "not yet". */
function untilBatch(id: string, isWanted: (batch: Batch) => boolean): Promise<Batch> {
  return waitFor(`the batch ${id}`, BATCH_TIMEOUT_MS, async () => {
    const { status, body } = await system.api.request<Batch>("GET", `/v1/batches/${id}`);
    return status === 200 && isWanted(body) ? body : null;
  });
}

/** Rows of the operator's meters: read from the object's own file, since no route shows them. */
function metered(): string[] {
  const files = readdirSync(join(system.data, "edge"), { recursive: true, encoding: "utf8" });
  return files
    .filter((name) => name.endsWith(".sqlite"))
    .flatMap((name) => {
      const db = new DatabaseSync(join(system.data, "edge", name), { readOnly: true });
      try {
        const hasMeters = db.prepare("SELECT 1 FROM sqlite_master WHERE name = 'meters'").get() !== undefined;
        if (!hasMeters) return [];
        return db
          .prepare("SELECT prediction_id FROM meters")
          .all()
          .map((row) => String(row["prediction_id"]));
      } finally {
        db.close();
      }
    });
}

test("each of 10,000 inputs runs once and is metered once, with two kills of the edge", {
  timeout: 600_000,
}, async () => {
  const path = join(system.data, "tally.txt");
  const lines = Array.from({ length: INPUTS }, (_, i) => JSON.stringify({ text: `input ${i}`, path }));
  const created = await system.api.request<Batch>("POST", "/v1/batches", {
    body: {
      version: "cogway/tally",
      input_url: `data:application/x-ndjson;base64,${Buffer.from(lines.join("\n")).toString("base64")}`,
      max_concurrency: 100,
    },
  });
  expect(created.status, created.text).toBe(201);
  const { id } = created.body;
  expect(created.body.counts.total).toBe(INPUTS);
  for (const kills of [1, 2]) {
    await untilBatch(id, ({ counts }) => counts.succeeded >= (kills * INPUTS) / 4);
    await system.restartEdge();
  }
  const done = await untilBatch(id, ({ status }) => status === "succeeded");
  expect(done.counts).toEqual({ total: INPUTS, pending: 0, running: 0, succeeded: INPUTS, failed: 0, canceled: 0 });

  const ran = readFileSync(path, "utf8").trimEnd().split("\n");
  expect(ran).toHaveLength(INPUTS);
  expect(new Set(ran).size).toBe(INPUTS);

  const results = await system.api.request("GET", `/v1/batches/${id}/results`);
  const rows = results.text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(rows.map(({ index, output }) => [index, output])).toEqual(lines.map((_, i) => [i, `input ${i}`]));
  const ids = rows.map((row) => String(row["prediction_id"]));
  await waitFor("the last meters", 30_000, () => (metered().length >= INPUTS ? true : null));
  expect(metered().toSorted()).toEqual(ids.toSorted());
});

test("a batch runs behind everything else, and a cancel ends it", async () => {
  const path = join(system.data, "second.txt");
  const inputs = Array.from({ length: 1_000 }, (_, i) => ({ text: `input ${i}`, path }));
  const { body: batch } = await system.api.request<Batch>("POST", "/v1/batches", {
    body: { version: "cogway/tally", inputs, max_concurrency: 100 },
  });
  expect(await system.api.run("tally", { text: "first", path: join(system.data, "third.txt") })).toMatchObject({
    status: "succeeded",
  });
  const { body: early } = await system.api.request<Problem>("GET", `/v1/batches/${batch.id}/results`);
  expect(early).toMatchObject({ status: 409, code: "batch.unfinished" });
  const canceled = await system.api.request<Batch>("POST", `/v1/batches/${batch.id}/cancel`);
  expect(canceled.body.status).toBe("canceled");
  const { counts } = canceled.body;
  expect(counts.succeeded + counts.canceled).toBe(1_000);
  const results = await system.api.request("GET", `/v1/batches/${batch.id}/results`);
  expect(results.text.trimEnd().split("\n")).toHaveLength(1_000);
});
