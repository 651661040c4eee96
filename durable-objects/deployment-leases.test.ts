/** Claims on slots: who is refused, what is taken back, what is remembered of decisions and runs. */
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { NO_ARRIVALS } from "../schema/arrivals.ts";
import type { DeploymentObject } from "./deployment.ts";
import type { EnqueueRequest, Release } from "./deployment-contract.ts";
import { DeploymentHistory } from "./deployment-history.ts";
import { DECISIONS_KEPT_MS, DECISIONS_MAX, DeploymentMeasures } from "./deployment-measures.ts";
import { keyOf, type Tools, withDeployment } from "./testing/deployment-world.ts";
import { anEnqueue, aPredictionId, aSpec, aStatus, passTime, START, stopClockInEachTest } from "./testing/harness.ts";

const MINUTE = 60_000;

/** A deployment with one ready instance of `slots` slots. */
function withReady(slots: number, test: (deployment: DeploymentObject, tools: Tools) => Promise<void>): Promise<void> {
  return withDeployment(async (deployment, tools) => {
    await deployment.configure(aSpec({ slots, min_instances: 1 }));
    await vi.waitFor(() => expect(tools.around.placements).toHaveLength(1));
    await deployment.instancesChanged("origin1", [aStatus({ slots })]);
    await test(deployment, tools);
  });
}

stopClockInEachTest();

describe("the epoch of a claim", () => {
  it("guarantees that a newer attempt takes the slot of an older one, which gets nothing any more", () =>
    withReady(1, async (deployment, { around }) => {
      const first = anEnqueue();
      const second = { ...first, attempt: 2 };
      expect(await deployment.enqueue(first)).toMatchObject({ kind: "leased" });
      const waiting = anEnqueue({ account_id: "bob" });
      await deployment.enqueue(waiting);
      // Its slot goes to who waits longer.
      expect(await deployment.enqueue(second)).toMatchObject({ kind: "queued" });
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([waiting.prediction_id]));
      expect(await deployment.enqueue(first)).toMatchObject({ kind: "refused", code: "origin.lost" });
      await deployment.release([keyOf(waiting)]);
      await vi.waitFor(() => expect(around.granted.at(-1)).toMatchObject({ attempt: 2 }));
      expect(await deployment.describe()).toMatchObject({ leases: 1, queue_length: 0 });
    }));

  it("guarantees that 1,000 zombie answers change nothing", () =>
    withReady(3, async (deployment, { around, restart }) => {
      const live = Array.from({ length: 6 }, () => anEnqueue({ attempt: 5, spec: aSpec({ slots: 3 }) }));
      for (const request of live) await deployment.enqueue(request);
      const before = await deployment.describe();
      expect(before).toMatchObject({ leases: 3, queue_length: 3 });
      const kinds = fc.sample(
        fc.record({
          kind: fc.constantFrom("release", "gone", "enqueue", "foreign"),
          of: fc.nat(5),
          attempt: fc.integer({ min: 1, max: 4 }),
        }),
        { numRuns: 1_000, seed: 7 },
      );
      const calls = kinds.map(({ kind, of, attempt }) => {
        const old = { ...(live[of] as EnqueueRequest), attempt };
        if (kind === "enqueue") return deployment.enqueue(old);
        const key = kind === "foreign" ? { prediction_id: aPredictionId(), attempt: 5 } : old;
        return deployment.release([{ ...keyOf({ ...old, ...key }), instance_gone: kind === "gone" }]);
      });
      const answers = await Promise.all(calls);
      for (const answer of answers) if (answer !== undefined) expect(answer).toMatchObject({ kind: "refused" });
      expect(await deployment.describe()).toEqual(before);
      expect(around.granted).toEqual([]);
      expect(await restart().describe()).toMatchObject({ leases: 3, queue_length: 3 });
    }));
});

describe("the expiry of a claim", () => {
  it("guarantees that one whose prediction says nothing for ten minutes is taken back, and one that is confirmed stays", () =>
    withReady(2, async (deployment, { around, restart }) => {
      const [held, lost, next] = [anEnqueue(), anEnqueue(), anEnqueue()];
      for (const request of [held, lost, next]) await deployment.enqueue(request);
      for (let minute = 0; minute < 12; minute++) {
        around.leasesHeldAway = true;
        if (minute === 5) around.leasesHeldAway = false;
        passTime(MINUTE);
        await (minute === 7 ? restart() : deployment).alarm();
      }
      // Confirmed once, five minutes in: neither has expired.
      expect(await deployment.describe()).toMatchObject({ leases: 2 });
      expect(around.grantedIds()).not.toContain(next.prediction_id);
      for (let minute = 0; minute < 6; minute++) {
        passTime(MINUTE);
        await deployment.alarm();
      }
      await vi.waitFor(() => expect(around.grantedIds()).toContain(next.prediction_id));
      await vi.waitFor(async () => expect(await deployment.describe()).toMatchObject({ leases: 1, queue_length: 0 }));
    }));

  it("guarantees that a place of what does not exist is given up after ten minutes, whether or not an instance comes", () =>
    withDeployment(async (deployment, { around }) => {
      around.placeAnswer = () => ({ kind: "refused", reason: "no_room", detail: "full" });
      const [gone, waits] = [anEnqueue(), anEnqueue()];
      for (const request of [gone, waits]) await deployment.enqueue(request);
      around.forgotten.add(gone.prediction_id);
      passTime(9 * MINUTE);
      await deployment.alarm();
      expect(await deployment.describe()).toMatchObject({ queue_length: 2 });
      passTime(2 * MINUTE);
      await deployment.alarm();
      expect(await deployment.describe()).toMatchObject({ queue_length: 1 });
      expect(await deployment.waitingFor(waits)).toMatchObject({ queue_position: 1 });
    }));
});

describe("what is decided", () => {
  it("guarantees that each change is remembered with its reason and what it rests on, over evictions", () =>
    withDeployment(async (deployment, { around, restart }) => {
      expect(await deployment.scaling()).toBeNull();
      const request = anEnqueue();
      await deployment.enqueue(request);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus({ boot_ms: 1_000, setup_ms: 2_000 })]);
      await deployment.release([keyOf(request)]);
      passTime(MINUTE);
      await deployment.alarm();
      await vi.waitFor(() => expect(around.drained).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus({ state: "stopped" })]);
      const seen = await restart().scaling();
      expect(seen?.decisions.slice(0, 2)).toMatchObject([
        { wanted_before: 1, wanted: 0, reason: "nothing to do", measures: { queued: 0 } },
        { wanted_before: 0, wanted: 1, reason: "queued work", at: START, measures: { queued: 1 } },
      ]);
      expect(seen).toMatchObject({ measures: { run_ms: 1_000, start_ms: 3_000 }, held_back: null });
    }));

  it("guarantees 200 decisions of seven days at most", () =>
    withDeployment(async (deployment, { state }) => {
      await deployment.configure(aSpec());
      const measures = new DeploymentMeasures(state.storage.sql);
      const base = (await deployment.scaling())?.measures;
      if (base === undefined) throw new Error("nothing was decided");
      const log = (wanted: number, at: number): void =>
        measures.log({ wanted, reason: "long queue", place: [], drain: [], decide_again_at: null, measures: base }, at);
      for (let n = 1; n <= 300; n++) log(n, Date.now() + n);
      for (let n = 0; n < 10; n++) log(300, Date.now() + 300);
      expect(measures.decisions()).toHaveLength(DECISIONS_MAX);
      expect(measures.decisions()[0]).toMatchObject({ wanted_before: 299, wanted: 300 });
      log(1, Date.now() + DECISIONS_KEPT_MS + 301);
      expect(measures.decisions()).toHaveLength(1);
    }));

  it("guarantees that arrivals outlive an eviction, and join commits that are made anyway", () =>
    withReady(1, async (deployment, { state, restart }) => {
      const stored = () => {
        const row = state.storage.sql.exec<{ arrivals: string }>("SELECT arrivals FROM arrivals").toArray()[0];
        return row === undefined ? NO_ARRIVALS : (JSON.parse(row.arrivals) as typeof NO_ARRIVALS);
      };
      let object = deployment;
      for (let n = 0; n < 5; n++) {
        const request = anEnqueue();
        passTime(10 * MINUTE);
        await object.enqueue(request);
        await object.release([keyOf(request)]);
        object = restart();
      }
      const gaps = Object.values(stored().levels[0]?.gaps ?? {});
      expect(gaps.reduce((sum, count) => sum + count, 0)).toBe(4);
      expect(stored().levels[0]?.idle_since).toBe(Date.now());
    }));
});

describe("how it ran", () => {
  it("guarantees queue, boot and setup times apart, cold starts and outcomes, by the version as callers know it", () =>
    withDeployment(async (deployment, { around, state }) => {
      const end = { version: "f".repeat(64), outcome: "succeeded" as const, platform_failure: false };
      const ends = (request: EnqueueRequest, change: Partial<NonNullable<Release["end"]>> = {}): Release[] => [
        { ...keyOf(request), end: { ...end, ...change } },
      ];
      const [cold, warm, never] = [anEnqueue(), anEnqueue(), anEnqueue()];
      await deployment.enqueue(cold);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      passTime(5_000);
      await deployment.instancesChanged("origin1", [aStatus({ boot_ms: 1_000, setup_ms: 3_000 })]);
      await deployment.release(ends(cold));
      await deployment.enqueue(warm);
      await deployment.enqueue(never);
      await deployment.release(ends(never, { outcome: "canceled" }));
      await deployment.release(ends(warm, { outcome: "failed", platform_failure: true }));
      // A repeat tells nothing new.
      await deployment.release(ends(warm));
      const history = new DeploymentHistory(state.storage.sql);
      expect(history.take("cogway/test")).toMatchObject({
        [end.version]: {
          ...{ runs: 3, succeeded: 1, failed: 0, platform_failures: 1, canceled: 1, cold: 1, leased: 2 },
          ...{ run_ms: { count: 1, max: 1_000 }, queue_ms: { count: 2 }, last_success_at: expect.any(Number) },
        },
        ["a".repeat(64)]: { runs: 0, boot_ms: { count: 1, max: 1_000 }, setup_ms: { count: 1, max: 3_000 } },
      });
      expect(history.take("cogway/test")).toEqual({});
    }));
});
