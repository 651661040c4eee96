import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { DeploymentObject } from "./deployment.ts";
import type { EnqueueRequest } from "./deployment-contract.ts";
import type { RunReport } from "./itty.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { keyOf, Surroundings, withDeployment, withReady } from "./testing/deployment-world.ts";
import {
  anEnqueue,
  aPredictionId,
  aSpec,
  aStatus,
  freshName,
  passTime,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";

stopClockInEachTest();

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
        anEnqueue({ spec }),
      ];
      const end = { version: "v", outcome: "succeeded", platform_failure: false } as const;
      for (const request of requests) await deployment.enqueue(request);
      await deployment.instancesChanged("origin1", [aStatus({ slots: 5 })]);
      // Another attempt follows the last one's.
      await deployment.release(requests.map((request, i) => ({ ...keyOf(request), ...(i < 3 ? { end } : {}) })));
      passTime(10_000);
      await deployment.alarm();
      isAway = false;
      const late = anEnqueue({ spec });
      await deployment.enqueue(late);
      await deployment.release([{ ...keyOf(late), end }]);
      passTime(10_000);
      await restart().alarm();
      passTime(10_000);
      await restart().alarm();
      passTime(10_000);
      await restart().alarm();
      expect(reports).toMatchObject([
        { deployment_key: "version:test", seq: 1, runs: 3 },
        { deployment_key: "version:test", seq: 1, runs: 3 },
        { deployment_key: "version:test", seq: 2, runs: 1 },
      ]);
    }));
});
