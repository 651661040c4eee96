/** Lanes of one deployment, each a real object over storage of its own, with calls between them that get lost, come twice, and end in crashes. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { laneName } from "../schema/lanes.ts";
import { DeploymentObject } from "./deployment.ts";
import type { EnqueueRequest, EnqueueResult, LaneReport, Lease, LeaseKey, QueuePlace } from "./deployment-contract.ts";
import { LANE_REST_MS } from "./deployment-lane.ts";
import { LANE_WINDOW_MS } from "./deployment-lanes.ts";
import { keyOf, Surroundings } from "./testing/deployment-world.ts";
import { anEnqueue, aSpec, aStatus, freshName, passTime, stopClockInEachTest } from "./testing/harness.ts";

const SLOTS = 4;

class Lanes {
  readonly around = new Surroundings();
  readonly #key = freshName();
  readonly #objects = new Map<string, DeploymentObject>();
  /** what becomes of the next reports */
  fault: "none" | "lost" | "unanswered" | "late" = "none";
  #late: LaneReport | null = null;
  readonly live = new Map<string, EnqueueRequest>();
  readonly spec = aSpec({ deployment_key: this.#key, slots: SLOTS, max_instances: 3, idle_ttl_ms: 60_000 });

  call<T>(lane: number, what: (object: DeploymentObject) => Promise<T>): Promise<T> {
    return this.#in(laneName(this.#key, lane), what);
  }

  #in<T>(name: string, what: (object: DeploymentObject) => Promise<T>): Promise<T> {
    const namespace = env.DEPLOYMENTS as unknown as DurableObjectNamespace;
    return runInDurableObject(namespace.getByName(name), (_instance, state) => {
      const object = this.#objects.get(name) ?? new DeploymentObject(state as never, this.#env());
      this.#objects.set(name, object);
      return what(object);
    });
  }

  #env(): Env {
    const lane0 = (name: string) => ({
      share: async (report: LaneReport) => {
        const { fault } = this;
        if (fault === "lost") throw new Error("lost");
        if (fault === "late") {
          this.#late = report;
          throw new Error("late");
        }
        const answer = await this.#in(name, (object) => object.share(report));
        if (fault === "unanswered") throw new Error("its answer is lost");
        return structuredClone(answer);
      },
      waitingFor: (key: LeaseKey, place: QueuePlace) => this.#in(name, (object) => object.waitingFor(key, place)),
    });
    return { ...this.around.env(), LANE_LEASES_PER_S: "100", DEPLOYMENTS: { getByName: lane0 } } as unknown as Env;
  }

  /** A report that was on its way for long. */
  async arriveLate(): Promise<void> {
    const report = this.#late;
    this.#late = null;
    if (report !== null) await this.call(0, (object) => object.share(report));
  }

  crash(lane: number): void {
    this.#objects.delete(laneName(this.#key, lane));
  }

  async enqueue(lane: number, account_id = "alice"): Promise<EnqueueResult> {
    const request = anEnqueue({ spec: this.spec, lane, account_id });
    this.live.set(request.prediction_id, request);
    const result = await this.call(lane, (object) => object.enqueue(request));
    if (result.kind === "leased") this.around.granted.push(result.lease);
    return result;
  }

  async release(id: string): Promise<void> {
    const request = this.live.get(id);
    if (request === undefined) return;
    this.live.delete(id);
    await this.call(request.lane ?? 0, (object) => object.release([keyOf(request)]));
  }

  async instance(n: number, state: "ready" | "stopped"): Promise<void> {
    const status = aStatus({ instance_id: `instance${n}`, deployment_key: this.#key, slots: SLOTS, state });
    await this.call(0, (object) => object.instancesChanged("origin1", [status]));
  }

  /** Deadlines of a lane that are due ring. What follows from them is done when this resolves. */
  async ring(lane: number): Promise<void> {
    passTime(251);
    await this.call(lane, (object) => object.alarm());
    await this.settle();
  }

  /** Rings a lane until that is so. */
  async ringUntil(lane: number, isSo: () => boolean): Promise<void> {
    for (let round = 0; round < 40 && !isSo(); round++) await this.ring(lane);
    expect(isSo()).toBe(true);
  }

  async settle(): Promise<void> {
    for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  /** The lease of each that has one, as it was told. */
  held(): Lease[] {
    const byId = new Map(this.around.granted.map((lease) => [lease.prediction_id, lease]));
    return [...byId.values()].filter(({ prediction_id }) => this.live.has(prediction_id));
  }

  expectNoSlotTwice(): void {
    for (const [instance, leases] of Map.groupBy(this.held(), (lease) => lease.instance_id)) {
      expect(leases.length, `leases on ${instance}`).toBeLessThanOrEqual(SLOTS);
    }
  }
}

stopClockInEachTest();

describe("how many lanes there are", () => {
  it("guarantees one more for each 100 leases a second, told with every answer, and one again when the load is gone", async () => {
    const lanes = new Lanes();
    await lanes.call(0, (object) => object.configure(lanes.spec));
    for (const n of [1, 2]) await lanes.instance(n, "ready");
    for (let fifth = 0; fifth < 5; fifth++) {
      const answers = await lanes.call(0, async (object) => {
        const results: Promise<unknown>[] = [];
        for (let n = 0; n < 220; n++) {
          const request = anEnqueue({ spec: lanes.spec });
          results.push(object.enqueue(request), object.release([keyOf(request)]));
        }
        return Promise.all(results);
      });
      for (const answer of answers) expect(answer ?? {}).not.toHaveProperty("lanes");
      passTime(LANE_WINDOW_MS / 5);
    }
    await lanes.enqueue(0);
    expect(await lanes.enqueue(0)).toMatchObject({ kind: "leased", lanes: 3 });
    lanes.crash(0);
    expect(await lanes.call(0, (object) => object.scaling())).toMatchObject({ lanes: 3 });
    expect(await lanes.enqueue(0)).toMatchObject({ lanes: 3 });
    passTime(LANE_WINDOW_MS);
    await lanes.enqueue(0);
    expect(await lanes.enqueue(0)).not.toHaveProperty("lanes");
  });
});

describe("slots of several lanes", () => {
  it("guarantees that a lane gets slots when something waits there, says why it waits until then, and gives them back when it rests", async () => {
    const lanes = new Lanes();
    await lanes.call(0, (object) => object.configure(lanes.spec));
    const first = await lanes.enqueue(1);
    expect(first).toMatchObject({ kind: "queued", queue_position: 1 });
    const [request] = lanes.live.values();
    await lanes.ringUntil(1, () => lanes.around.placements.length === 1);
    const waits = await lanes.call(1, (object) => object.waitingFor(request as EnqueueRequest));
    expect(waits).toMatchObject({ reason: "boot", queue_position: expect.any(Number) });
    expect(await lanes.call(0, (object) => object.describe())).toMatchObject({ queue_length: 1, leases: 0 });
    await lanes.instance(1, "ready");
    await lanes.ringUntil(1, () => lanes.held().length === 1);
    await lanes.ring(1);
    expect(lanes.held()).toMatchObject([{ instance_id: "instance1", lane: 1 }]);
    expect(await lanes.call(0, (object) => object.describe())).toMatchObject({
      ...{ queue_length: 0, leases: 1 },
      instances: [{ leased: 1, slots: SLOTS }],
    });
    expect(await lanes.call(0, (object) => object.evictIdle("instance1"))).toBe(false);
    await lanes.release(request?.prediction_id ?? "");
    passTime(LANE_REST_MS);
    for (let round = 0; round < 4; round++) await lanes.ring(1);
    expect((await lanes.call(1, (object) => object.describe())).instances).toEqual([]);
    for (let n = 0; n < SLOTS; n++) expect(await lanes.enqueue(0)).toMatchObject({ kind: "leased" });
  });

  it("guarantees that what waits in any lane is refused with a disabled deployment and a model that cannot be set up", async () => {
    const lanes = new Lanes();
    await lanes.call(0, (object) => object.configure(lanes.spec));
    await lanes.enqueue(2);
    await lanes.ring(2);
    for (let n = 1; n <= 3; n++) {
      const status = aStatus({ instance_id: `bad${n}`, state: "failed", reason: "RuntimeError: no" });
      await lanes.call(0, (object) => object.instancesChanged("origin1", [status]));
    }
    await lanes.ringUntil(2, () => lanes.around.refused.length === 1);
    expect(lanes.around.refused).toMatchObject([{ code: "model.setup_failed" }]);
    expect(await lanes.enqueue(2)).toMatchObject({ kind: "refused", code: "model.setup_failed" });
    passTime(60_000);
    await lanes.instance(1, "ready");
    await lanes.enqueue(2);
    await lanes.ringUntil(2, () => lanes.held().length === 1);
    const [lease] = lanes.held();
    expect(lease).toMatchObject({ lane: 2 });
    await lanes.call(0, (object) => object.configure({ ...lanes.spec, release: 1, max_instances: 0 }));
    await lanes.ringUntil(2, () => lanes.around.canceled.some((one) => one.prediction_id === lease?.prediction_id));
    expect(await lanes.enqueue(2)).toMatchObject({ kind: "refused", code: "deployment.disabled" });
  });

  it("guarantees that a refusal whose answer was lost comes with the next one", async () => {
    const lanes = new Lanes();
    await lanes.call(0, (object) => object.configure(lanes.spec));
    await lanes.enqueue(1);
    await lanes.ringUntil(1, () => lanes.around.placements.length === 1);
    for (let n = 1; n <= 3; n++) {
      const status = aStatus({ instance_id: `bad${n}`, state: "failed", reason: "RuntimeError: no" });
      await lanes.call(0, (object) => object.instancesChanged("origin1", [status]));
    }
    lanes.fault = "unanswered";
    await lanes.ring(1);
    await lanes.ring(1);
    expect(lanes.around.refused).toEqual([]);
    lanes.fault = "none";
    await lanes.ringUntil(1, () => lanes.around.refused.length === 1);
    await lanes.ring(1);
    passTime(30_000);
    await lanes.instance(3, "ready");
    await lanes.enqueue(1);
    await lanes.ringUntil(1, () => lanes.held().some(({ instance_id }) => instance_id === "instance3"));
    expect(lanes.around.refused).toHaveLength(1);
  });

  it("guarantees that a lane which rested meanwhile does not refuse what the deployment takes again", async () => {
    const lanes = new Lanes();
    await lanes.call(0, (object) => object.configure(lanes.spec));
    await lanes.enqueue(1);
    await lanes.ringUntil(1, () => lanes.around.placements.length === 1);
    await lanes.call(0, (object) => object.configure({ ...lanes.spec, release: 1, max_instances: 0 }));
    await lanes.ringUntil(1, () => lanes.around.canceled.length > 0);
    expect(await lanes.enqueue(1)).toMatchObject({ kind: "refused", code: "deployment.disabled" });
    for (const id of lanes.live.keys()) await lanes.release(id);
    passTime(LANE_REST_MS);
    for (let round = 0; round < 4; round++) await lanes.ring(1);
    await lanes.call(0, (object) => object.configure({ ...lanes.spec, release: 2 }));
    await lanes.instance(3, "ready");
    let taken = await lanes.enqueue(1);
    for (let round = 0; round < 10 && taken.kind === "refused"; round++) {
      await lanes.ring(1);
      taken = await lanes.enqueue(1);
    }
    expect(taken).toMatchObject({ kind: "queued" });
    await lanes.ringUntil(1, () => lanes.held().length === 1);
  });

  it("guarantees that a report which was on its way for long takes nothing of what came after it", async () => {
    const lanes = new Lanes();
    await lanes.call(0, (object) => object.configure(lanes.spec));
    await lanes.instance(1, "ready");
    await lanes.enqueue(1);
    await lanes.ringUntil(1, () => lanes.held().length === 1);
    await lanes.release(lanes.held()[0]?.prediction_id ?? "");
    passTime(LANE_REST_MS);
    // What it says here, it says before it has work again: that it rests.
    lanes.fault = "late";
    await lanes.ring(1);
    lanes.fault = "none";
    await lanes.enqueue(1);
    await lanes.ringUntil(1, () => lanes.held().length === 1);
    await lanes.arriveLate();
    for (let n = 0; n < SLOTS; n++) await lanes.enqueue(0);
    lanes.expectNoSlotTwice();
    await lanes.ringUntil(1, () => lanes.held().length === SLOTS);
    lanes.expectNoSlotTwice();
  });

  it("guarantees that no slot is leased twice and everything gets its turn, whatever is lost, late or crashes, in all histories", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            step: fc.constantFrom(
              ...(["enqueue", "enqueue", "enqueue", "release", "release", "ring", "ring", "ring", "late"] as const),
              ...(["crash", "fault", "ready", "stopped"] as const),
            ),
            lane: fc.nat(2),
            pick: fc.nat(30),
            fault: fc.constantFrom(
              "none" as const,
              "none" as const,
              "lost" as const,
              "unanswered" as const,
              "late" as const,
            ),
          }),
          { minLength: 20, maxLength: 80 },
        ),
        async (steps) => {
          const lanes = new Lanes();
          await lanes.call(0, (object) => object.configure(lanes.spec));
          for (const n of [1, 2]) await lanes.instance(n, "ready");
          for (const { step, lane, pick, fault } of steps) {
            if (step === "enqueue") await lanes.enqueue(lane, pick % 2 === 0 ? "alice" : "bob");
            else if (step === "ring") await lanes.ring(lane);
            else if (step === "late") await lanes.arriveLate();
            else if (step === "crash") lanes.crash(lane);
            else if (step === "fault") lanes.fault = fault;
            else if (step === "release") {
              const held = lanes.held();
              await lanes.release(held[pick % Math.max(1, held.length)]?.prediction_id ?? "");
            } else await lanes.instance(step === "ready" ? 3 : 2, step === "ready" ? "ready" : "stopped");
            lanes.expectNoSlotTwice();
          }
          lanes.fault = "none";
          await lanes.arriveLate();
          for (let round = 0; round < 100 && lanes.live.size > 0; round++) {
            for (const lane of [1, 2, 0]) await lanes.ring(lane);
            lanes.expectNoSlotTwice();
            for (const { prediction_id } of lanes.held()) await lanes.release(prediction_id);
          }
          expect(lanes.live.size).toBe(0);
          passTime(LANE_REST_MS);
          for (let round = 0; round < 4; round++) for (const lane of [1, 2]) await lanes.ring(lane);
          for (const lane of [1, 2])
            expect((await lanes.call(lane, (object) => object.describe())).instances).toEqual([]);
          const seen = await lanes.call(0, (object) => object.describe());
          expect(seen).toMatchObject({ queue_length: 0, leases: 0 });
          const free = seen.instances.filter(({ state }) => state === "ready").length * SLOTS;
          for (let n = 0; n < free; n++) expect(await lanes.enqueue(0)).toMatchObject({ kind: "leased" });
        },
      ),
      { numRuns: 12 },
    ));
});
