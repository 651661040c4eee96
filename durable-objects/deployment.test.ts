import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { EnqueueRequest, Lease, LeaseKey, PlaceResult, RunSpec } from "./contracts.ts";
import { DeploymentObject } from "./deployment.ts";
import { SETUP_FAILURES_MAX } from "./deployment-setups.ts";
import type { RunReport } from "./itty.ts";
import { keyOf, Surroundings, type Tools, withDeployment } from "./testing/deployment-world.ts";
import {
  anEnqueue,
  aPredictionId,
  aSpec,
  aStatus,
  freshName,
  passTime,
  stopClock,
  withObject,
} from "./testing/harness.ts";

/** A deployment with one ready instance of `slots` slots. */
function withReady(slots: number, test: (deployment: DeploymentObject, tools: Tools) => Promise<void>): Promise<void> {
  return withDeployment(async (deployment, tools) => {
    const first = anEnqueue({ spec: aSpec({ slots }) });
    await deployment.enqueue(first);
    await vi.waitFor(() => expect(tools.around.placements).toHaveLength(1));
    await deployment.instancesChanged("origin1", [aStatus({ slots })]);
    await vi.waitFor(() => expect(tools.around.granted).toHaveLength(1));
    await deployment.release([{ ...first, ran_ms: 100 }]);
    tools.around.granted = [];
    await test(deployment, tools);
  });
}

beforeEach(stopClock);
afterEach(() => {
  vi.useRealTimers();
});

describe("leases", () => {
  it("guarantees a lease in the answer where a slot is free, without asking the fleet", () =>
    withReady(1, async (deployment, { around }) => {
      const request = anEnqueue();
      const lease = {
        prediction_id: request.prediction_id,
        attempt: 1,
        instance_id: "instance1",
        origin_id: "origin1",
        leased_at: Date.now(),
      };
      expect(await deployment.enqueue(request)).toEqual({ kind: "leased", lease });
      passTime(5);
      expect(await deployment.enqueue(request)).toEqual({ kind: "leased", lease });
      expect(around.placements).toHaveLength(1);
      expect(around.granted).toEqual([]);
    }));

  it("guarantees that a release passes the slot to the next in the queue, and repeats change nothing", () =>
    withReady(1, async (deployment, { around }) => {
      const [a, b, c] = [anEnqueue(), anEnqueue(), anEnqueue()];
      expect(await deployment.enqueue(a)).toMatchObject({ kind: "leased" });
      expect(await deployment.enqueue(b)).toEqual({ kind: "queued", queue_position: 1 });
      expect(await deployment.enqueue(c)).toEqual({ kind: "queued", queue_position: 2 });
      expect(await deployment.enqueue(b)).toEqual({ kind: "queued", queue_position: 1 });
      await deployment.release([keyOf(a)]);
      await deployment.release([keyOf(a)]);
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([b.prediction_id]));
      expect(await deployment.describe()).toMatchObject({ queue_length: 1, leases: 1 });
    }));

  it("guarantees that a prediction which is released while it waits is not granted", () =>
    withReady(1, async (deployment, { around }) => {
      const [a, b, c] = [anEnqueue(), anEnqueue(), anEnqueue()];
      for (const request of [a, b, c]) await deployment.enqueue(request);
      await deployment.release([keyOf(b)]);
      await deployment.release([keyOf(b)]);
      await deployment.release([keyOf(a)]);
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([c.prediction_id]));
    }));

  it("guarantees that a declined grant goes to the next", () =>
    withReady(1, async (deployment, { around }) => {
      const [a, b, c] = [anEnqueue(), anEnqueue(), anEnqueue()];
      for (const request of [a, b, c]) await deployment.enqueue(request);
      around.ended.add(b.prediction_id);
      await deployment.release([keyOf(a)]);
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([b.prediction_id, c.prediction_id]));
    }));

  it("guarantees that a grant is told again when its PredictionObject was away, and after a crash", () =>
    withReady(1, async (deployment, { around, restart }) => {
      const [a, b] = [anEnqueue(), anEnqueue()];
      for (const request of [a, b]) await deployment.enqueue(request);
      around.predictionsAway = true;
      await deployment.release([keyOf(a)]);
      passTime(5_000);
      await deployment.alarm();
      expect(around.granted).toEqual([]);
      around.predictionsAway = false;
      passTime(5_000);
      await restart().alarm();
      expect(around.grantedIds()).toEqual([b.prediction_id]);
    }));

  it("guarantees that a lease whose release was lost is freed after a minute", () =>
    withReady(1, async (deployment, { around, restart }) => {
      const [a, b] = [anEnqueue(), anEnqueue()];
      for (const request of [a, b]) await deployment.enqueue(request);
      passTime(60_000);
      await deployment.alarm();
      expect(around.granted).toEqual([]);
      around.forgotten.add(a.prediction_id);
      passTime(60_000);
      await restart().alarm();
      await vi.waitFor(() => expect(around.grantedIds()).toContain(b.prediction_id));
    }));

  it("guarantees that no slot of an instance that is gone is granted", () =>
    withReady(2, async (deployment) => {
      const a = anEnqueue({ spec: aSpec({ slots: 2 }) });
      await deployment.enqueue(a);
      await deployment.release([{ ...keyOf(a), instance_gone: true }]);
      expect(await deployment.enqueue(anEnqueue({ spec: aSpec({ slots: 2 }) }))).toMatchObject({ kind: "queued" });
    }));

  it("guarantees that an instance which may be there all the same is drained, and over when the fleet has nothing of it", () =>
    withReady(1, async (deployment, { around }) => {
      const [a, b] = [anEnqueue(), anEnqueue()];
      const first = await deployment.enqueue(a);
      const instanceId = first.kind === "leased" ? first.lease.instance_id : "";
      await deployment.release([{ ...keyOf(a), instance_gone: true }]);
      await vi.waitFor(() => expect(around.drainedIds()).toEqual([instanceId]));
      const states = async () => (await deployment.describe()).instances.map(({ state }) => state);
      expect(await states()).toContain("draining");
      around.gone.add(instanceId);
      await deployment.enqueue(b);
      passTime(30_000);
      await deployment.alarm();
      await vi.waitFor(async () => expect(await states()).not.toContain("draining"));
    }));

  it("guarantees that a slot is never leased twice and none idles beside a queue, in all histories with evictions", () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 3 }),
        fc.array(
          fc.record({
            step: fc.constantFrom(
              "enqueue",
              "enqueue",
              "enqueue",
              "release",
              "release",
              "restart",
              "repeat",
              "ready2",
              "gone2",
            ),
            pick: fc.nat(20),
            account: fc.constantFrom("alice", "bob"),
          }),
          { minLength: 5, maxLength: 40 },
        ),
        (slots, steps) =>
          withReady(slots, async (first, { restart }) => {
            let deployment = first;
            const spec = aSpec({ slots, max_instances: 1 });
            const live: EnqueueRequest[] = [];
            let hasSecond = false;
            for (const { step, pick, account } of steps) {
              passTime(1);
              const picked = live[pick % Math.max(1, live.length)];
              if (step === "enqueue") {
                const request = anEnqueue({ spec, account_id: account });
                live.push(request);
                await deployment.enqueue(request);
              } else if (step === "restart") deployment = restart();
              else if (step === "ready2" && !hasSecond) {
                hasSecond = true;
                await deployment.instancesChanged("origin2", [aStatus({ instance_id: "second", slots })]);
              } else if (step === "gone2") await deployment.instancesGone("origin2", ["second"]);
              else if (picked !== undefined && step === "repeat") await deployment.enqueue(picked);
              else if (picked !== undefined && step === "release") {
                await deployment.release([keyOf(picked)]);
                live.splice(live.indexOf(picked), 1);
              }
              const seen = await deployment.describe();
              const ready = seen.instances.filter((instance) => instance.state === "ready");
              for (const instance of ready) expect(instance.leased).toBeLessThanOrEqual(slots);
              expect(seen.queue_length + seen.leases).toBe(live.length);
              if (seen.queue_length > 0) for (const instance of ready) expect(instance.leased).toBe(slots);
            }
          }),
      ),
      { numRuns: 25 },
    ));
});

describe("the queue", () => {
  it("guarantees first in, first out within an account, and rounds between accounts, in all mixes", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom("alice", "bob", "carol"), { minLength: 2, maxLength: 25 }),
        fc.array(fc.constantFrom("alice", "bob", "carol"), { maxLength: 10 }),
        (waiting, later) =>
          withReady(1, async (deployment, { around }) => {
            const holder = anEnqueue({ account_id: "holder" });
            await deployment.enqueue(holder);
            const requests = waiting.map((account_id) => anEnqueue({ account_id }));
            for (const request of requests) await deployment.enqueue(request);
            const owner = new Map(requests.map((request) => [request.prediction_id, request]));
            const order: EnqueueRequest[] = [];
            let held: EnqueueRequest = holder;
            const arriving = [...later];
            while (order.length < owner.size) {
              const account_id = arriving.pop();
              if (account_id !== undefined) {
                const request = anEnqueue({ account_id });
                requests.push(request);
                owner.set(request.prediction_id, request);
                await deployment.enqueue(request);
              }
              around.granted = [];
              await deployment.release([keyOf(held)]);
              await vi.waitFor(() => expect(around.granted).toHaveLength(1));
              const next = owner.get(around.granted[0]?.prediction_id ?? "");
              if (next === undefined) throw new Error("granted what was never queued");
              order.push(next);
              held = next;
            }
            for (const account of ["alice", "bob", "carol"]) {
              const own = (list: EnqueueRequest[]) => list.filter((request) => request.account_id === account);
              expect(own(order)).toEqual(own(requests));
            }
            // Fair: among the ones that waited from the start, nobody is served a third time before each other was served once.
            const initial = requests.slice(0, waiting.length);
            for (const account of new Set(waiting)) {
              const firstTurn = order.findIndex((request) => request.account_id === account);
              for (const other of new Set(waiting)) {
                const before = order.slice(0, firstTurn).filter((request) => request.account_id === other);
                expect(before.length).toBeLessThanOrEqual(1);
              }
            }
            expect(new Set(order).size).toBe(order.length);
            expect(initial.every((request) => order.includes(request))).toBe(true);
          }),
      ),
      { numRuns: 15 },
    ));

  it("guarantees why a prediction waits, its place and its time", () =>
    withDeployment(async (deployment, { around }) => {
      around.placeAnswer = () => ({ kind: "refused", reason: "no_room", detail: "full" });
      const request = anEnqueue();
      await deployment.enqueue(request);
      await vi.waitFor(async () => expect((await deployment.waitingFor(request))?.reason).toBe("capacity"));
      expect(await deployment.waitingFor(request)).toMatchObject({ detail: "full" });
      await deployment.instancesChanged("origin1", [aStatus({ state: "boot" })]);
      passTime(700);
      expect(await deployment.waitingFor(request)).toEqual({
        reason: "boot",
        queue_position: 1,
        elapsed_ms: Date.now() - request.enqueued_at,
        estimate_ms: null,
      });
      for (const row of [2, 3]) {
        const reason = `restarting: its server exited (1) (${row} times in a row, next start in 2000 ms)`;
        await deployment.instancesChanged("origin1", [aStatus({ state: "boot", reason })]);
        expect(await deployment.waitingFor(request)).toMatchObject({ reason: "boot", detail: reason });
      }
      await deployment.instancesChanged("origin1", [aStatus({ state: "setup" })]);
      expect(await deployment.waitingFor(request)).toMatchObject({ reason: "setup" });
      await deployment.instancesChanged("origin1", [aStatus({ boot_ms: 1_000, setup_ms: 2_000 })]);
      expect(await deployment.waitingFor(request)).toBeNull();
      // It has its slot, and the server there ends before it began.
      const reason = "restarting: its server exited (137)";
      await deployment.instancesChanged("origin1", [aStatus({ state: "boot", reason })]);
      expect(await deployment.waitingFor(request)).toMatchObject({
        reason: "boot",
        queue_position: null,
        detail: reason,
      });
      await deployment.instancesChanged("origin1", [aStatus({ boot_ms: 1_000, setup_ms: 2_000 })]);
      const second = anEnqueue();
      await deployment.enqueue(second);
      await deployment.release([keyOf(request)]);
      const third = anEnqueue();
      await deployment.enqueue(third);
      expect(await deployment.waitingFor(third)).toMatchObject({
        reason: "slot",
        queue_position: 1,
        estimate_ms: 1_000,
      });
    }));

  it("guarantees that it is bounded", () =>
    withObject("DEPLOYMENTS", freshName(), async (state) => {
      const deployment = new DeploymentObject(state as never, new Surroundings().env());
      await deployment.enqueue(anEnqueue());
      state.storage.sql.exec(
        `INSERT INTO queue (prediction_id, attempt, account_id, enqueued_at, priority, boot_key, turn, refused)
          WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
          SELECT 'p' || i, 1, 'alice', 0, 0, (SELECT boot_key FROM queue), i, 0 FROM n`,
      );
      expect(await deployment.enqueue(anEnqueue())).toMatchObject({ kind: "refused", code: "deployment.queue_full" });
      await deployment.release([{ prediction_id: "p1", attempt: 1, ran_ms: 0 }]);
      expect(await deployment.enqueue(anEnqueue())).toEqual({ kind: "queued", queue_position: 10_000 });
    }));
});

describe("scaling", () => {
  it("guarantees one instance from zero, and none again after its idle time", () =>
    withDeployment(async (deployment, { around, restart }) => {
      const request = anEnqueue();
      await Promise.all([
        deployment.enqueue(request),
        deployment.enqueue(anEnqueue()),
        deployment.enqueue(anEnqueue()),
      ]);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      for (let ended = 1; ended <= 3; ended++) {
        await vi.waitFor(() => expect(around.granted).toHaveLength(ended));
        await deployment.release([{ ...(around.granted[ended - 1] as Lease), ran_ms: 5 }]);
      }
      passTime(59_999);
      await restart().alarm();
      expect(around.drained).toEqual([]);
      passTime(1);
      await restart().alarm();
      await vi.waitFor(() => expect(around.drained).toEqual([{ instance_id: "instance1", reason: "idle" }]));
      await deployment.instancesChanged("origin1", [aStatus({ state: "stopped" })]);
      expect((await deployment.describe()).instances).toEqual([]);
      expect(around.placements).toHaveLength(1);
    }));

  it("guarantees that a placement without room is tried again, and that waiting long asks for a busy one's room", () =>
    withDeployment(async (deployment, { around }) => {
      around.placeAnswer = () => ({ kind: "refused", reason: "no_room", detail: "full" });
      await deployment.enqueue(anEnqueue());
      for (let tries = 1; tries <= 5; tries++) {
        await vi.waitFor(() => expect(around.placements).toHaveLength(tries));
        await vi.waitFor(async () => expect((await deployment.describe()).reason).toBe("held back"));
        passTime(5_000);
        await deployment.alarm();
      }
      expect(around.placements[0]).toMatchObject({ is_starving: false });
      expect(around.placements.at(-1)).toMatchObject({ is_starving: true });
    }));

  it("guarantees that a lost instance is replaced while predictions wait", () =>
    withDeployment(async (deployment, { around }) => {
      await deployment.enqueue(anEnqueue());
      await vi.waitFor(async () => expect((await deployment.describe()).instances).toHaveLength(1));
      await deployment.instancesGone("origin1", ["instance1"]);
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
    }));

  it("guarantees that an answer of a placement that comes after the instance's end does not revive it", () =>
    withDeployment(async (deployment, { around }) => {
      let answer: (result: PlaceResult) => void = () => {};
      const slow = new Promise<PlaceResult>((resolve) => {
        answer = resolve;
      });
      around.placeAnswer = () => slow as never;
      await deployment.enqueue(anEnqueue());
      await deployment.instancesChanged("origin1", [aStatus({ instance_id: "quick", state: "setup" })]);
      await deployment.instancesChanged("origin1", [aStatus({ instance_id: "quick", state: "stopped" })]);
      around.placeAnswer = () => ({ kind: "refused", reason: "no_room", detail: "" });
      answer({ kind: "placed", instance_id: "quick", origin_id: "origin1" });
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
      expect((await deployment.describe()).instances).toEqual([]);
    }));

  it("guarantees that an idle instance goes for another's need, a busy one only after it served, and never below the minimum", () =>
    withReady(1, async (deployment) => {
      const spec = aSpec({ min_instances: 1 });
      const [a, b] = [anEnqueue({ spec }), anEnqueue({ spec: aSpec() })];
      await deployment.enqueue(a);
      await deployment.release([keyOf(a)]);
      expect(await deployment.evictIdle("instance1")).toBe(false);
      await deployment.enqueue(b);
      expect(await deployment.evictIdle("instance1")).toBe(false);
      expect(await deployment.evictIdle("instance1", true)).toBe(false);
      passTime(30_000);
      expect(await deployment.evictIdle("instance1", true)).toBe(true);
      expect(await deployment.describe()).toMatchObject({ instances: [{ state: "draining", leased: 1 }] });
      await deployment.instancesChanged("origin1", [aStatus({ slots_busy: 1 })]);
      expect(await deployment.enqueue(anEnqueue())).toMatchObject({ kind: "queued" });
      expect(await deployment.evictIdle("unknown")).toBe(true);
    }));
});

describe("setups that fail", () => {
  const failed = (n: number) =>
    aStatus({ instance_id: `instance${n}`, state: "failed", reason: "RuntimeError: secret path /home/x" });

  it("guarantees three tries, then a reason without details for all that wait, then another try later", () =>
    withDeployment(async (deployment, { around, restart }) => {
      const waiting = [anEnqueue(), anEnqueue()];
      for (const request of waiting) await deployment.enqueue(request);
      for (let n = 1; n <= SETUP_FAILURES_MAX; n++) {
        await vi.waitFor(() => expect(around.placements).toHaveLength(n));
        await vi.waitFor(async () => expect((await deployment.describe()).instances).toHaveLength(1));
        await deployment.instancesChanged("origin1", [failed(n)]);
        await deployment.instancesChanged("origin1", [failed(n)]);
        if (n < SETUP_FAILURES_MAX) {
          expect(await deployment.waitingFor(waiting[0] as LeaseKey)).toMatchObject({ last_error: "RuntimeError" });
          expect(around.refused).toEqual([]);
        }
        passTime(4_000);
        await deployment.alarm();
      }
      await vi.waitFor(() => expect(around.refused).toHaveLength(2));
      expect(around.refused.map((refusal) => refusal.prediction_id).sort()).toEqual(
        waiting.map((request) => request.prediction_id).sort(),
      );
      expect(around.refused[0]).toMatchObject({
        code: "model.setup_failed",
        detail: "The model could not be set up: RuntimeError, 3 times in a row.",
      });
      expect(await restart().enqueue(anEnqueue())).toMatchObject({ kind: "refused", code: "model.setup_failed" });
      passTime(30_000);
      expect(await deployment.enqueue(anEnqueue())).toMatchObject({ kind: "queued" });
      await vi.waitFor(() => expect(around.placements).toHaveLength(4));
      await deployment.instancesChanged("origin1", [aStatus({ instance_id: "instance4" })]);
      await vi.waitFor(() => expect(around.granted).toHaveLength(1));
      await deployment.release([{ ...(around.granted[0] as Lease), ran_ms: 1 }]);
      expect(await deployment.enqueue(anEnqueue())).toMatchObject({ kind: "leased" });
    }));

  it("guarantees the same end for a version that no origin can boot", () =>
    withDeployment(async (deployment, { around }) => {
      around.placeAnswer = () => ({ kind: "refused", reason: "no_version", detail: "version.not_found" });
      await deployment.enqueue(anEnqueue());
      for (let n = 1; n <= SETUP_FAILURES_MAX; n++) {
        await vi.waitFor(() => expect(around.placements).toHaveLength(n));
        await vi.waitFor(async () => expect((await deployment.describe()).reason).not.toBe("queued work"));
        passTime(5_000);
        await deployment.alarm();
      }
      await vi.waitFor(() => expect(around.refused).toMatchObject([{ code: "model.setup_failed" }]));
      expect(around.refused[0]?.detail).toContain("version.not_found");
    }));

  it("guarantees that refusals are told again when their object was away", () =>
    withDeployment(async (deployment, { around, restart }) => {
      const request = anEnqueue();
      await deployment.enqueue(request);
      around.predictionsAway = true;
      for (let n = 1; n <= SETUP_FAILURES_MAX; n++) await deployment.instancesChanged("origin1", [failed(n)]);
      expect(await deployment.waitingFor(request)).toBeNull();
      around.predictionsAway = false;
      passTime(5_000);
      await restart().alarm();
      expect(around.refused).toMatchObject([{ prediction_id: request.prediction_id }]);
      expect(await deployment.enqueue(request)).toMatchObject({ kind: "refused" });
    }));
});

describe("the run counter", () => {
  it("guarantees that each run is reported with one number until it is acknowledged", () =>
    withObject("DEPLOYMENTS", freshName(), async (state) => {
      const reports: RunReport[] = [];
      let isAway = true;
      const counter = {
        idFromName: (name: string) => name,
        get: () => ({
          fetch: async (request: Request) => {
            reports.push(...(JSON.parse(request.headers.get("do-content") ?? "[]") as RunReport[]));
            if (isAway) throw new Error("away");
            return Response.json({ total: 1 });
          },
        }),
      };
      const around = new Surroundings();
      const env = { ...around.env(), RUN_COUNTERS: counter } as unknown as Env;
      const restart = () => new DeploymentObject(state as never, env);
      const deployment = restart();
      const spec: RunSpec = aSpec({ slots: 5 });
      const requests = [
        anEnqueue({ spec }),
        anEnqueue({ spec }),
        anEnqueue({ spec, attempt: 2, prediction_id: aPredictionId() }),
      ];
      for (const request of requests) await deployment.enqueue(request);
      await deployment.instancesChanged("origin1", [aStatus({ slots: 5 })]);
      await deployment.release(requests.map(keyOf));
      passTime(10_000);
      await deployment.alarm();
      isAway = false;
      const late = anEnqueue({ spec });
      await deployment.enqueue(late);
      await deployment.release([keyOf(late)]);
      passTime(10_000);
      await restart().alarm();
      passTime(10_000);
      await restart().alarm();
      passTime(10_000);
      await restart().alarm();
      expect(reports).toMatchObject([
        { deployment_key: "version:test", seq: 1, runs: 2 },
        { deployment_key: "version:test", seq: 1, runs: 2 },
        { deployment_key: "version:test", seq: 2, runs: 1 },
      ]);
    }));
});
