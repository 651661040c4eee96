import { describe, expect, it, vi } from "vitest";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { amountMicros, type PriceItem, type Rates, sumMicros } from "../schema/pricing.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import { passTime, START, stopClockInEachTest } from "./testing/harness.ts";
import {
  aCreate,
  events,
  output,
  started,
  succeeded,
  type World,
  withPredictions,
} from "./testing/prediction-world.ts";

stopClockInEachTest();

const SECOND: PriceItem = { unit: "second", price_micros: 100, per: 1_000_000 };
const ACTIVE: Rates = { basis: "active", hardware: "cpu", items: [SECOND], discount_ppm: 0 };
const OUTPUT: Rates = {
  basis: "output",
  hardware: "cpu",
  items: [
    { unit: "image", price_micros: 40_000, per: 1 },
    { unit: "output_token", price_micros: 3_750_000, per: 1_000_000 },
  ],
  discount_ppm: 0,
};
const aPicture = {
  $cogway_file: { n: 0, name: "a.png", content_type: "image/png", size_bytes: 1, sha256: "0".repeat(64) },
};
const ended = (
  status: "succeeded" | "failed" | "canceled",
  predict_time_s: number,
  metrics: Record<string, unknown> = {},
) =>
  ({ type: "finished", status, metrics, predict_time_s, ...(status === "failed" ? { error: "boom" } : {}) }) as const;

/** A running prediction. */
async function running(world: World, change: Partial<CreatePrediction>): Promise<string> {
  const request = aCreate({ rates: ACTIVE, ...change });
  await world.object.create(request);
  await world.idle();
  await world.send(request.id, 1, events(0, started));
  return request.id;
}

async function ring(world: World): Promise<void> {
  await world.object.alarm();
  await world.idle();
}

async function read(world: World, id: string): Promise<PredictionDocument> {
  const document = await world.object.get(id, "alice");
  if (document === null) throw new Error("gone");
  return document;
}

/** When the one prediction is looked at next. */
const dueAt = (world: World) => world.state.storage.sql.exec("SELECT due_at FROM predictions").one()["due_at"];

/** What was booked: once, and equal to what the document says. */
async function booked(world: World, id: string): Promise<number> {
  await world.idle();
  const told = world.settled.filter(({ prediction_id }) => prediction_id === id);
  expect(told).toHaveLength(1);
  const lines = told[0]?.charge?.lines ?? [];
  for (const line of lines) expect(line.amount_micros).toBe(amountMicros(line.quantity, line, line.discount_ppm));
  expect((await read(world, id)).cost_micros).toBe(sumMicros(lines));
  return sumMicros(lines);
}

describe("what an end costs", () => {
  it("is the time that the model worked, by the prices of the creation, for the token that asked", () =>
    withPredictions(async (world) => {
      const id = await running(world, {
        rates: { ...ACTIVE, discount_ppm: 100_000 },
        token_id: "t1",
        deployment: null,
      });
      expect((await read(world, id)).cost_micros).toBeNull();
      await world.send(id, 1, events(1, ended("succeeded", 2.5)));
      expect(await booked(world, id)).toBe(225);
      expect(world.settled[0]?.charge).toEqual({
        subject: `prediction:${id}`,
        at: (await read(world, id)).completed_at,
        basis: "active",
        model: "cogway/test",
        version: "a".repeat(64),
        hardware: "cpu",
        token_id: "t1",
        deployment: null,
        lines: [{ ...SECOND, quantity: 2_500_000, discount_ppm: 100_000, amount_micros: 225 }],
      });
    }));

  it("is what an official model made: pictures of its output, tokens by its metrics, within bounds", () =>
    withPredictions(async (world) => {
      const id = await running(world, { rates: OUTPUT });
      await world.send(id, 1, events(1, output(aPicture), output({ nested: [aPicture] }), output("text")));
      await world.send(id, 1, events(4, ended("succeeded", 9, { output_token_count: 1_000, input_token_count: 5 })));
      expect(await booked(world, id)).toBe(80_000 + 3_750);
      const wild = await running(world, { rates: OUTPUT });
      await world.send(wild, 1, events(1, ended("succeeded", 1, { output_token_count: "many", image: 1e9 })));
      expect(await booked(world, wild)).toBe(0);
      const live = await running(world, { rates: OUTPUT });
      const tokens = (value: number) =>
        ({ type: "metric", name: "output_token_count", value, mode: "increment" }) as const;
      await world.send(live, 1, events(1, tokens(400), tokens(400)));
      await world.send(live, 1, events(3, ended("canceled", 1)));
      expect(await booked(world, live)).toBe(3_000);
    }));

  it("is nothing before the start, for a failure of the platform, of an output that was not made, on paid instances, and without prices", () =>
    withPredictions(async (world) => {
      const request = aCreate({ rates: ACTIVE });
      world.enqueue = () => ({ kind: "queued", queue_position: 1 });
      await world.object.create(request);
      await world.object.cancel(request.id, "alice");
      expect(await booked(world, request.id)).toBe(0);
      world.enqueue = (key) => world.leased(key);
      const lost = await running(world, {});
      await world.send(lost, 1, events(1, { type: "lost", started: true, reason: "gone" }));
      expect(await read(world, lost)).toMatchObject({ state: "failed", error_code: "origin.lost" });
      expect(await booked(world, lost)).toBe(0);
      const failed = await running(world, { rates: OUTPUT });
      await world.send(failed, 1, events(1, output(aPicture), ended("failed", 3)));
      expect(await booked(world, failed)).toBe(0);
      const paid = await running(world, {});
      await world.send(paid, 1, events(1, ended("failed", 3)));
      expect(await booked(world, paid)).toBe(300);
      for (const rates of [
        { ...ACTIVE, basis: "online" as const, items: [] },
        { ...ACTIVE, items: [] },
      ]) {
        const free = await running(world, { rates });
        await world.send(free, 1, events(1, ended("succeeded", 3)));
        expect(await booked(world, free)).toBe(0);
      }
    }));

  it("is nothing of one that an earlier release made", () =>
    withPredictions(async (world) => {
      const request = aCreate();
      await world.object.create(request);
      await world.idle();
      await world.send(request.id, 1, events(0, started, succeeded));
      expect(await booked(world, request.id)).toBe(0);
    }));
});

describe("Cogway-Max-Cost", () => {
  it("stops a prediction that has cost as much, over evictions, and books no more", () =>
    withPredictions(async (world) => {
      const id = await running(world, { max_cost_micros: 1_000 });
      passTime(9_900);
      world.restart();
      await ring(world);
      expect((await read(world, id)).state).toBe("processing");
      // Amounts are rounded half up: this much more is still the same amount.
      passTime(100 + 5);
      world.restart();
      await ring(world);
      expect((await read(world, id)).state).toBe("canceling");
      expect(world.cancels).toEqual([`${id}/1`]);
      await world.send(id, 1, events(1, output("partial"), ended("canceled", 10.4)));
      expect(await read(world, id)).toMatchObject({
        state: "failed",
        error_code: "billing.max_cost_reached",
        error: expect.stringContaining("Cogway-Max-Cost"),
        output: ["partial"],
      });
      expect(await booked(world, id)).toBe(1_000);
      expect(world.holds).toEqual([]);
    }));

  it("is never passed by an end that came before anybody looked, and gives units away whole", () =>
    withPredictions(async (world) => {
      const id = await running(world, { rates: OUTPUT, max_cost_micros: 50_000 });
      await world.send(id, 1, events(1, output(aPicture), output(aPicture), ended("succeeded", 1)));
      expect(await read(world, id)).toMatchObject({ state: "succeeded" });
      expect(await booked(world, id)).toBe(40_000);
    }));

  it("stops what makes more than that while it runs", () =>
    withPredictions(async (world) => {
      const id = await running(world, { rates: OUTPUT, max_cost_micros: 60_000 });
      await world.send(id, 1, events(1, output(aPicture)));
      await ring(world);
      expect((await read(world, id)).state).toBe("processing");
      await world.send(id, 1, events(2, output(aPicture)));
      await ring(world);
      expect((await read(world, id)).state).toBe("canceling");
    }));
});

describe("what is held", () => {
  it("grows before it is used up, and the prediction goes on", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 6_000 });
      passTime(57_003);
      await ring(world);
      expect(world.holds).toEqual([]);
      passTime(1);
      world.restart();
      await ring(world);
      expect(world.holds).toEqual([{ id, reserve_micros: 12_000 }]);
      passTime(59_000);
      await ring(world);
      passTime(59_000);
      await ring(world);
      expect(world.holds.map(({ reserve_micros }) => reserve_micros)).toEqual([12_000, 18_000]);
      await world.send(id, 1, events(1, ended("succeeded", 175)));
      expect(await booked(world, id)).toBe(17_500);
    }));

  it("is asked for again after a moment where what came is used up already", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 600 });
      passTime(100_000);
      await ring(world);
      await ring(world);
      expect(world.holds).toEqual([{ id, reserve_micros: 6_600 }]);
      passTime(250);
      await ring(world);
      expect(world.holds.slice(1)).toEqual([{ id, reserve_micros: 12_600 }]);
    }));

  it("is never more than its caller allows", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 6_000, max_cost_micros: 8_000 });
      passTime(58_000);
      await ring(world);
      expect(world.holds).toEqual([{ id, reserve_micros: 8_000 }]);
      await world.send(id, 1, events(1, ended("succeeded", 100)));
      expect(world.holds).toHaveLength(1);
      expect(await booked(world, id)).toBe(8_000);
      const short = await running(world, { reserved_micros: 600, max_cost_micros: 700 });
      await world.send(short, 1, events(1, ended("succeeded", 8)));
      expect(world.holds.at(-1)).toEqual({ id: short, reserve_micros: 700 });
      expect(await booked(world, short)).toBe(700);
    }));

  it("takes what little there is, and stops with a reason where there is no more", () =>
    withPredictions(async (world) => {
      world.hasRoom = (micros) => micros <= 6_600;
      const id = await running(world, { reserved_micros: 6_000 });
      passTime(58_000);
      await ring(world);
      expect(world.holds.map(({ reserve_micros }) => reserve_micros)).toEqual([12_000, 6_600]);
      passTime(6_000);
      await ring(world);
      expect((await read(world, id)).state).toBe("processing");
      // It is not asked again and again for what is not there: only at the limit itself.
      const asked = world.holds.length;
      passTime(1_000);
      await ring(world);
      expect(world.holds).toHaveLength(asked);
      passTime(1_005);
      world.restart();
      await ring(world);
      expect((await read(world, id)).state).toBe("canceling");
      // What takes its time to stop is given away.
      await world.send(id, 1, events(1, ended("canceled", 68.5)));
      expect(await read(world, id)).toMatchObject({ state: "failed", error_code: "billing.budget_exceeded" });
      expect(await booked(world, id)).toBe(6_600);
    }));

  it("is asked for ahead again once there was room at the last moment", () =>
    withPredictions(async (world) => {
      world.hasRoom = () => false;
      const id = await running(world, { reserved_micros: 600 });
      passTime(3_100);
      await ring(world);
      world.hasRoom = () => true;
      passTime(2_910);
      await ring(world);
      passTime(57_090);
      await ring(world);
      expect(world.holds.map(({ reserve_micros }) => reserve_micros)).toEqual([6_600, 1_200, 6_600, 12_600]);
      expect((await read(world, id)).state).toBe("processing");
    }));

  it("is asked again of an account that is away", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 6_000 });
      world.ownersAreAway = true;
      passTime(58_000);
      await ring(world);
      world.ownersAreAway = false;
      passTime(5_000);
      await ring(world);
      expect(world.holds).toEqual([{ id, reserve_micros: 12_000 }]);
      expect((await read(world, id)).state).toBe("processing");
    }));

  it("is asked for once more by an end that costs more, and else bounds it", () =>
    withPredictions(async (world) => {
      const zero = await running(world, { reserved_micros: 600 });
      await world.send(zero, 1, events(1, ended("succeeded", 6)));
      expect(world.holds).toEqual([]);
      const one = await running(world, { reserved_micros: 600 });
      await world.send(one, 1, events(1, ended("succeeded", 8)));
      expect(world.holds).toEqual([{ id: one, reserve_micros: 800 }]);
      expect(await booked(world, one)).toBe(800);
      world.hasRoom = () => false;
      const two = await running(world, { reserved_micros: 600 });
      await world.send(two, 1, events(1, ended("succeeded", 8)));
      expect(await read(world, two)).toMatchObject({ state: "succeeded", error: null });
      expect(await booked(world, two)).toBe(600);
      world.ownersAreAway = true;
      const three = await running(world, { reserved_micros: 600 });
      const [ack] = await world.send(three, 1, events(1, ended("succeeded", 8)));
      expect(ack?.outcome).toBe("stored");
      world.ownersAreAway = false;
      passTime(10_000);
      await ring(world);
      expect(await booked(world, three)).toBe(600);
    }));

  it("is not asked for while it stops, nor looked at again", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 600 });
      const canceled = world.object.cancel(id, "alice");
      await vi.waitFor(async () => expect((await read(world, id)).state).toBe("canceling"));
      passTime(3_100);
      await ring(world);
      expect(world.holds).toEqual([]);
      expect(dueAt(world)).toBe(START + 86_400_000);
      await world.send(id, 1, events(1, ended("canceled", 3)));
      expect(await canceled).toMatchObject({ state: "canceled" });
      expect(await booked(world, id)).toBe(300);
    }));

  it("changes nothing of what ended while it was asked for", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 600 });
      const first = Promise.withResolvers<boolean>();
      world.hasRoom = () => (world.holds.length === 1 ? first.promise : false);
      passTime(3_100);
      const rung = ring(world);
      await vi.waitFor(() => expect(world.holds).toHaveLength(1));
      await world.send(id, 1, events(1, ended("succeeded", 8)));
      expect((await read(world, id)).cost_micros).toBe(600);
      first.resolve(true);
      await rung;
      world.restart();
      expect((await read(world, id)).cost_micros).toBe(600);
      expect(await booked(world, id)).toBe(600);
    }));

  it("never lets a deadline be forgotten", () =>
    withPredictions(async (world) => {
      const id = await running(world, { reserved_micros: 60_000, deadline_at: START + 30_000 });
      passTime(30_000);
      await ring(world);
      expect((await read(world, id)).state).toBe("canceling");
      expect(dueAt(world)).toBe(Number.MAX_SAFE_INTEGER);
      await world.send(id, 1, events(1, ended("canceled", 30)));
      expect(await read(world, id)).toMatchObject({ state: "canceled", error: null });
      expect(await booked(world, id)).toBe(3_000);
    }));
});
