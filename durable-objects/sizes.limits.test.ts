/**
 * The platform refuses a SQLite value or row above 2 MB, and the write that holds it fails for ever; local workerd takes any. So every way in is tried
 * with what is too large for a row, and then all rows of the object are measured.
 */
import { describe, expect, it, vi } from "vitest";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { AccountObject } from "./account.ts";
import {
  aDocument,
  anAdmit,
  aSettlement,
  envWith,
  freshName,
  passTime,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";
import {
  aCreate,
  events,
  files,
  line,
  output,
  readStream,
  running,
  started,
  streamRequest,
  succeeded,
  type World,
  withPredictions,
} from "./testing/prediction-world.ts";
import { largestRow, ROW_BYTES_MAX } from "./testing/rows.ts";

stopClockInEachTest();

/** Design section 9: what is larger is in R2. JSON of other scripts takes up to three bytes a character. */
const STORED_VALUE_CHARACTERS_MAX = 262_144;
const MIB = 1_048_576;

async function documentOf(world: World, id: string): Promise<PredictionDocument> {
  const document = await world.object.get(id, "alice");
  if (document === null) throw new Error("it is gone");
  return document;
}

function expectSmallRows(state: DurableObjectState): void {
  expect(largestRow(state).bytes).toBeLessThan(ROW_BYTES_MAX);
}

const metric = (name: string, value: unknown, mode: "replace" | "append" = "replace") =>
  ({ type: "metric", name, value, mode }) as const;

describe("events", () => {
  const near = [-1_025, -100, -1, 0, 1].map((beside) => STORED_VALUE_CHARACTERS_MAX + beside);
  const texts: [string, string][] = [
    ...near.map((length): [string, string] => [`${length} letters`, "x".repeat(length)]),
    ["250,000 characters of three bytes", "語".repeat(250_000)],
    ["200,000 NULs, six characters of JSON each", "\u0000".repeat(200_000)],
    ["40,000 NULs", "\u0000".repeat(40_000)],
    ["1 MiB", "x".repeat(MIB)],
    ["4 MiB of smileys", "\u{1f600}".repeat(MIB)],
  ];

  it.each(texts)("guarantees rows below the platform's bound, and the whole value, of %s", (_name, text) =>
    withPredictions(async (world) => {
      const id = await running(world);
      const sent = [
        started,
        output(text),
        output({ text }),
        output(""),
        line(text),
        metric("m", text),
        metric(text, 1),
      ];
      const acks = await world.send(id, 1, events(0, ...sent, succeeded));
      expect(acks).toMatchObject([{ outcome: "stored", through_i: sent.length }]);
      expectSmallRows(world.state);
      world.restart();
      const document = await documentOf(world, id);
      expect(document.state).toBe("succeeded");
      const [first, second, third] = document.output as [string, { text: string }, string];
      expect([first === text, second.text === text, third]).toEqual([true, true, ""]);
      expect(document.logs.endsWith(text.slice(-MIB))).toBe(true);
      expect([document.metrics["m"] === text, document.metrics[text]]).toEqual([true, 1]);
      const streamed = await readStream(await world.object.fetch(streamRequest(id)));
      expect(streamed.map(({ event, data }) => [event, data.length])).toEqual([
        ["output", text.length],
        ["output", JSON.stringify({ text }).length],
        ["output", 0],
        ["logs", text.length],
        ["done", 2],
      ]);
      for (const [n, { id: eventId }] of streamed.entries()) {
        const rest = await readStream(await world.object.fetch(streamRequest(id, eventId)));
        expect(rest.map(({ data }) => data.length)).toEqual(streamed.slice(n + 1).map(({ data }) => data.length));
      }
    }),
  );

  it("guarantees that equal large values of different events stay what they are", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const text = "x".repeat(300_000);
      await world.send(
        id,
        1,
        events(0, started, line(text), output(text), metric("a", text), metric("b", text), succeeded),
      );
      world.restart();
      const document = await documentOf(world, id);
      expect([document.logs === text, (document.output as string[])[0] === text]).toEqual([true, true]);
      expect([document.metrics["a"] === text, document.metrics["b"] === text]).toEqual([true, true]);
    }));

  it("guarantees that large values which come too late leave nothing behind", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      await world.send(id, 1, events(0, started, succeeded));
      const late = events(2, output("x".repeat(300_000)));
      expect(await world.send(id, 1, late)).toMatchObject([{ outcome: "fenced" }]);
      expect((await files().list({ prefix: `predictions/${id}/` })).objects).toEqual([]);
    }));

  it("guarantees rows below the bound for whatever an origin says of an end or a loss", () =>
    withPredictions(async (world) => {
      const large = "\u0000".repeat(MIB);
      const spec = { ...aCreate().spec, idempotent: true };
      const id = await running(world, { spec });
      await world.send(id, 1, events(0, started, { type: "lost", started: true, reason: large }));
      await vi.waitFor(() => expect(world.started.at(-1)).toMatchObject({ prediction_id: id, attempt: 2 }));
      const metrics = { large, first: 1, [large]: 2, second: "kept" };
      const failed = { type: "finished", status: "failed", error: large, metrics, predict_time_s: 0.5 } as const;
      await world.send(id, 2, events(0, started, failed));
      const other = await running(world);
      await world.send(other, 1, events(0, started, { type: "lost", started: true, reason: large }));
      world.enqueue = () => ({ kind: "refused", code: "model.setup_failed", detail: large });
      const refused = await world.object.create(aCreate({ wait_ms: 10_000 }));
      expectSmallRows(world.state);
      world.restart();
      const document = await documentOf(world, id);
      expect(document).toMatchObject({ state: "failed", metrics: { first: 1, second: "kept", predict_time: 0.5 } });
      expect(document.error?.length).toBe(16_384);
      expect(await world.object.get(other, "alice")).toMatchObject({ state: "failed", error_code: "origin.lost" });
      expect(refused.document).toMatchObject({ state: "failed", error_code: "model.setup_failed" });
    }));

  it("guarantees that data is removed in time, however large its metrics grew", () =>
    withPredictions(async (world) => {
      const id = await running(world, { retention_ms: 1_000 });
      const parts = Array.from({ length: 12 }, () => metric("list", "x".repeat(200_000), "append"));
      await world.send(id, 1, events(0, started, ...parts, metric("n", 7), succeeded));
      expect(((await documentOf(world, id)).metrics["list"] as string[]).length).toBe(12);
      passTime(1_001);
      await world.object.alarm();
      expectSmallRows(world.state);
      const document = await documentOf(world, id);
      expect(document).toMatchObject({ data_removed: true, metrics: { n: 7, predict_time: 0.001 } });
      await vi.waitFor(() => expect(world.removed).toMatchObject([{ id, data_removed: true }]));
    }));

  it("guarantees that logs above 64 MiB lose their oldest lines, those in R2 too, and no output", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      await world.send(id, 1, events(0, started, output("first")));
      for (let n = 0; n < 70; n++) await world.send(id, 1, events(2 + n, line(`${n}:${"x".repeat(MIB)}`)));
      await world.send(id, 1, events(72, output("last"), succeeded));
      const rows = world.state.storage.sql.exec<{ bytes: number }>("SELECT sum(bytes) AS bytes FROM log").one();
      expect(rows.bytes).toBeLessThan(64 * MIB + STORED_VALUE_CHARACTERS_MAX);
      expect((await documentOf(world, id)).output).toEqual(["first", "last"]);
      const streamed = await readStream(await world.object.fetch(streamRequest(id)));
      const logs = streamed.filter(({ event }) => event === "logs").map(({ data }) => Number(data.split(":")[0]));
      expect(logs).toEqual(Array.from({ length: logs.length }, (_, n) => 70 - logs.length + n));
      expect(logs.length).toBeGreaterThan(60);
      expect(streamed.filter(({ event }) => event === "output").map(({ data }) => data)).toEqual(["first", "last"]);
    }));
});

describe("inputs", () => {
  it("guarantees small rows and the whole input, shown without its secrets, also above 256 KiB", () =>
    withPredictions(async (world) => {
      for (const size of [STORED_VALUE_CHARACTERS_MAX - 30, STORED_VALUE_CHARACTERS_MAX, 2 * MIB]) {
        const text = "語".repeat(Math.ceil(size / 3));
        const isLarge = size > STORED_VALUE_CHARACTERS_MAX - 30;
        const id = aCreate().id;
        const input = { text, key: "s3cret" };
        const input_ref = isLarge ? `predictions/${id}/input` : null;
        if (input_ref !== null) await files().put(input_ref, JSON.stringify(input));
        await running(world, {
          id,
          input: isLarge ? null : input,
          input_ref,
          shown_input: { text, key: "[REDACTED]" },
        });
        expectSmallRows(world.state);
        world.restart();
        for (const end of [false, true]) {
          if (end) await world.send(id, 1, events(0, started, succeeded));
          const shown = (await documentOf(world, id)).input;
          expect([shown?.["text"] === text, shown?.["key"]]).toEqual([true, "[REDACTED]"]);
        }
        expectSmallRows(world.state);
      }
    }));
});

describe("AccountObject", () => {
  it("guarantees small rows for documents, answers and keys of any size, and every removed document in the list", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const account = new AccountObject(state as never, envWith({}));
      const body = (length: number) => "語".repeat(length);
      const sizes = [16_000, 16_384, STORED_VALUE_CHARACTERS_MAX, STORED_VALUE_CHARACTERS_MAX + 1, 4 * MIB];
      const documents: PredictionDocument[] = [];
      for (const [n, size] of sizes.entries()) {
        const idempotency = { key: body(255).slice(0, 254) + n, body_sha256: "0".repeat(64) };
        const admit = anAdmit({ idempotency, created_at: Date.now() + n });
        await account.admit(admit);
        const answer = { status: 201, headers: [["content-type", "application/json"]] as [string, string][] };
        await account.answered(idempotency.key, { ...answer, body: body(size) });
        const replay = await account.admit({ ...admit, prediction_id: aCreate().id });
        const isKept = size <= STORED_VALUE_CHARACTERS_MAX;
        expect(replay).toMatchObject({ kind: "replay", response: { status: 201, body: isKept ? body(size) : "" } });
        const document = aDocument({ id: admit.prediction_id, created_at: admit.created_at, output: body(size) });
        documents.push(document);
        await account.settle([aSettlement(document)]);
      }
      expectSmallRows(state);
      const gone = { data_removed: true, input: {}, output: null, state: "failed", error: body(16_384) } as const;
      await account.removeData(documents.map((document) => ({ ...document, ...gone })));
      expectSmallRows(state);
      const { rows } = await account.list({ kind: "prediction", limit: 100 });
      expect(rows.map((row) => row.document?.data_removed)).toEqual(documents.map(() => true));
      expect(rows[0]?.document?.error?.length).toBe(16_384);
    }));
});
