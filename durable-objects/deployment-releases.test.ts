import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { DeploymentObject } from "./deployment.ts";
import type { EnqueueRequest } from "./deployment-contract.ts";
import type { PlaceResult } from "./fleet-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { keyOf, type Surroundings, withDeployment } from "./testing/deployment-world.ts";
import { anEnqueue, aSpec, aStatus, passTime, stopClockInEachTest } from "./testing/harness.ts";

const KEY = "deployment:alice/service";
const version = (letter: string) => letter.repeat(64);

function aRelease(release: number, letter: string, change: Partial<RunSpec> = {}): RunSpec {
  return aSpec({ deployment_key: KEY, release, version_id: version(letter), ...change });
}

/** An instance that was placed becomes ready. */
async function ready(deployment: DeploymentObject, n: number, letter: string): Promise<void> {
  await vi.waitFor(async () =>
    expect((await deployment.describe()).instances.map((row) => row.instance_id)).toContain(`instance${n}`),
  );
  await deployment.instancesChanged("origin1", [
    aStatus({ instance_id: `instance${n}`, deployment_key: KEY, version_id: version(letter) }),
  ]);
}

async function stopped(deployment: DeploymentObject, n: number): Promise<void> {
  await deployment.instancesChanged("origin1", [aStatus({ instance_id: `instance${n}`, state: "stopped" })]);
}

async function versionsPlaced(around: Surroundings, letters: string[]): Promise<void> {
  await vi.waitFor(() => expect(around.placements.map((placed) => placed.version_id[0])).toEqual(letters));
}

stopClockInEachTest();

describe("minimum instances", () => {
  it("guarantees that they boot without a prediction, stay beyond any idle time, and come back when they are lost", () =>
    withDeployment(async (deployment, { around, restart }) => {
      await deployment.configure(aRelease(1, "a", { min_instances: 2 }));
      await versionsPlaced(around, ["a", "a"]);
      await ready(deployment, 1, "a");
      await ready(deployment, 2, "a");
      passTime(600_000);
      await restart().alarm();
      expect(around.drained).toEqual([]);
      expect(await deployment.evictIdle("instance1", true)).toBe(false);
      await deployment.instancesGone("origin1", ["instance1", "instance2"]);
      await versionsPlaced(around, ["a", "a", "a", "a"]);
    }));

  it("guarantees that one without room is tried again by time alone, also after a crash", () =>
    withDeployment(async (deployment, { around, restart }) => {
      around.placeAnswer = () => ({ kind: "refused", reason: "no_room", detail: "full" });
      await deployment.configure(aRelease(1, "a", { min_instances: 1 }));
      await vi.waitFor(async () => expect((await deployment.describe()).reason).toBe("held back"));
      around.placeAnswer = () => ({ kind: "placed", instance_id: "instance2", origin_id: "origin1" });
      passTime(30_000);
      await restart().alarm();
      await versionsPlaced(around, ["a", "a"]);
    }));

  it("guarantees that they go when they are not wanted any more, and that predictions with older bounds do not bring them back", () =>
    withDeployment(async (deployment, { around }) => {
      const official = aSpec({ min_instances: 1 });
      await deployment.configure(official);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await deployment.configure(aSpec({ min_instances: 0 }));
      const request = anEnqueue({ spec: official });
      await deployment.enqueue(request);
      await deployment.release([keyOf(request)]);
      passTime(60_000);
      await deployment.alarm();
      await vi.waitFor(() => expect(around.drained).toEqual([{ instance_id: "instance1", reason: "idle" }]));
      await deployment.instancesChanged("origin1", [aStatus({ state: "stopped" })]);
      expect(around.placements).toHaveLength(1);
    }));
});

describe("a newer release", () => {
  it("guarantees that what runs is not killed, and that new work runs on the new version beside it", () =>
    withDeployment(async (deployment, { around }) => {
      const first = aRelease(1, "a");
      const running = anEnqueue({ spec: first });
      await deployment.configure(first);
      await deployment.enqueue(running);
      await ready(deployment, 1, "a");
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([running.prediction_id]));
      const second = aRelease(2, "b");
      await deployment.configure(second);
      const newer = anEnqueue({ spec: second });
      expect(await deployment.enqueue(newer)).toMatchObject({ kind: "queued" });
      await versionsPlaced(around, ["a", "b"]);
      await ready(deployment, 2, "b");
      await vi.waitFor(() =>
        expect(around.granted).toMatchObject([{ instance_id: "instance1" }, { instance_id: "instance2" }]),
      );
      await vi.waitFor(() => expect(around.drainedIds()).toEqual(["instance1"]));
      expect((await deployment.describe()).instances).toMatchObject([
        { instance_id: "instance1", state: "draining", leased: 1, is_current: false },
        { instance_id: "instance2", state: "ready", leased: 1, is_current: true },
      ]);
      await deployment.release([keyOf(running)]);
      await stopped(deployment, 1);
      expect((await deployment.describe()).instances).toHaveLength(1);
    }));

  it("guarantees that what waits runs on the version that it was created for, and the old instance goes after it", () =>
    withDeployment(async (deployment, { around, restart }) => {
      const first = aRelease(1, "a", { max_instances: 1 });
      await deployment.configure(first);
      const olds = [anEnqueue({ spec: first }), anEnqueue({ spec: first }), anEnqueue({ spec: first })];
      for (const request of olds) await deployment.enqueue(request);
      await ready(deployment, 1, "a");
      const second = aRelease(2, "b", { max_instances: 1 });
      await deployment.configure(second);
      const newer = anEnqueue({ spec: second });
      await deployment.enqueue(newer);
      // One instance above the maximum, so that both go on.
      await versionsPlaced(around, ["a", "b"]);
      await ready(deployment, 2, "b");
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([olds[0]?.prediction_id, newer.prediction_id]));
      const again = restart();
      for (const [ended, next] of [[0, 1] as const, [1, 2] as const]) {
        expect(around.drained).toEqual([]);
        around.granted = [];
        await again.release([keyOf(olds[ended] as EnqueueRequest)]);
        await vi.waitFor(() => expect(around.grantedIds()).toContain(olds[next]?.prediction_id));
        const lease = around.granted.find((grant) => grant.prediction_id === olds[next]?.prediction_id);
        expect(lease).toMatchObject({ instance_id: "instance1" });
      }
      await vi.waitFor(() => expect(around.drainedIds()).toEqual(["instance1"]));
    }));

  it("guarantees that a prediction of a release that an isolate still remembers runs as it shows, and changes nothing for others", () =>
    withDeployment(async (deployment, { around }) => {
      const second = aRelease(2, "b", { min_instances: 1 });
      await deployment.configure(second);
      await ready(deployment, 1, "b");
      const stale = anEnqueue({ spec: aRelease(1, "a", { min_instances: 5, max_instances: 0 }) });
      expect(await deployment.enqueue(stale)).toMatchObject({ kind: "queued" });
      await versionsPlaced(around, ["b", "a"]);
      expect(await deployment.enqueue(anEnqueue({ spec: second }))).toMatchObject({ kind: "leased" });
      await ready(deployment, 2, "a");
      const { prediction_id } = stale;
      await vi.waitFor(() => expect(around.granted).toMatchObject([{}, { prediction_id, instance_id: "instance2" }]));
      await deployment.release([keyOf(stale)]);
      await deployment.configure(aRelease(1, "a"));
      passTime(10_000);
      await deployment.alarm();
      await vi.waitFor(() => expect(around.drainedIds()).toEqual(["instance2"]));
      expect((await deployment.describe()).instances).toMatchObject([{ is_current: true }, { is_current: false }]);
    }));

  it("guarantees that a change of bounds alone boots nothing anew", () =>
    withDeployment(async (deployment, { around }) => {
      await deployment.configure(aRelease(1, "a", { min_instances: 1 }));
      await ready(deployment, 1, "a");
      await deployment.configure(aRelease(2, "a", { min_instances: 1, max_instances: 5 }));
      expect(await deployment.enqueue(anEnqueue({ spec: aRelease(1, "a") }))).toMatchObject({ kind: "leased" });
      expect(around.placements).toHaveLength(1);
      expect(around.drained).toEqual([]);
    }));

  it("guarantees that a lower maximum lets the idlest go, and drains the busy ones above it", () =>
    withDeployment(async (deployment, { around }) => {
      await deployment.configure(aRelease(1, "a", { min_instances: 3, max_instances: 3 }));
      for (const n of [1, 2, 3]) await ready(deployment, n, "a");
      const spec = aRelease(1, "a", { min_instances: 3, max_instances: 3 });
      for (let n = 0; n < 2; n++) await deployment.enqueue(anEnqueue({ spec }));
      await deployment.configure(aRelease(2, "a", { min_instances: 0, max_instances: 1 }));
      await vi.waitFor(() => expect(around.drained).toHaveLength(2));
      const { instances } = await deployment.describe();
      expect(instances.filter((row) => row.state === "ready")).toHaveLength(1);
      expect(instances.find((row) => row.leased === 0)).toMatchObject({ state: "draining" });
    }));

  it("guarantees that a release that cannot be set up does not hold back the one that repairs it", () =>
    withDeployment(async (deployment, { around }) => {
      const broken = aRelease(1, "a", { min_instances: 1, max_instances: 1 });
      await deployment.configure(broken);
      const waiting = anEnqueue({ spec: broken });
      await deployment.enqueue(waiting);
      await vi.waitFor(async () => expect((await deployment.describe()).instances).toHaveLength(1));
      const repaired = aRelease(2, "b", { min_instances: 1, max_instances: 1 });
      await deployment.configure(repaired);
      await deployment.instancesChanged("origin1", [
        aStatus({ instance_id: "instance1", version_id: version("a"), state: "failed", reason: "ImportError: no" }),
      ]);
      await vi.waitFor(() => expect(around.refused).toMatchObject([{ prediction_id: waiting.prediction_id }]));
      expect(around.refused[0]?.detail).toBe("The model could not be set up: ImportError.");
      await vi.waitFor(() => expect(around.placements.at(-1)?.version_id).toBe(version("b")));
      const n = around.placements.length;
      await ready(deployment, n, "b");
      expect(await deployment.enqueue(anEnqueue({ spec: repaired }))).toMatchObject({ kind: "leased" });
    }));

  it("guarantees that weights are never mistaken: a fine-tune's instance that reports before its placement is answered gets no lease", () =>
    withDeployment(async (deployment, { around }) => {
      const weights = (letter: string) => ({ key: `weights/${letter}`, sha256: version(letter), size_bytes: 1 });
      let answer: (result: PlaceResult) => void = () => {};
      around.placeAnswer = () =>
        new Promise<PlaceResult>((resolve) => {
          answer = resolve;
        }) as never;
      const spec = aRelease(1, "a", { weights: weights("1") });
      const request = anEnqueue({ spec });
      await deployment.enqueue(request);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus({ version_id: version("a") })]);
      expect(around.granted).toEqual([]);
      answer({ kind: "placed", instance_id: "instance1", origin_id: "origin1" });
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([request.prediction_id]));
      await deployment.configure(aRelease(2, "a", { weights: weights("2") }));
      expect(await deployment.enqueue(anEnqueue({ spec: aRelease(2, "a", { weights: weights("2") }) }))).toMatchObject({
        kind: "queued",
      });
    }));

  it("guarantees that every prediction runs on the version of its release and no instance stays behind, in all histories on a host with room for one", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            step: fc.constantFrom("enqueue", "enqueue", "stale", "release", "update", "restart", "time"),
            pick: fc.nat(20),
          }),
          { minLength: 4, maxLength: 12 },
        ),
        (steps) =>
          withDeployment(async (first, { around, restart }) => {
            const host = new OneRoomHost(around);
            let deployment = first;
            let release = 1;
            const spec = (number: number) => aRelease(number, "abcdef"[number % 6] ?? "a", { max_instances: 1 });
            await deployment.configure(spec(1));
            const live: EnqueueRequest[] = [];
            const settle = async () => {
              await host.settle(deployment);
              for (const lease of around.granted.splice(0)) {
                const request = live.find((one) => one.prediction_id === lease.prediction_id);
                if (request !== undefined) host.expectVersion(lease.instance_id, request.spec.version_id);
              }
            };
            const enqueue = async (number: number) => {
              const request = anEnqueue({ spec: spec(number) });
              live.push(request);
              const result = await deployment.enqueue(request);
              if (result.kind === "leased") host.expectVersion(result.lease.instance_id, request.spec.version_id);
            };
            for (const { step, pick } of steps) {
              passTime(100);
              if (step === "enqueue") await enqueue(release);
              else if (step === "stale") await enqueue(Math.max(1, release - 1));
              else if (step === "update") {
                release += 1;
                await deployment.configure(spec(release));
              } else if (step === "restart") deployment = restart();
              else if (step === "time") {
                passTime(5_000);
                await deployment.alarm();
              } else await endOne(deployment, live, pick);
              await settle();
            }
            // With no more coming, all run, one after another, and the host is empty in the end.
            for (let turn = 0; live.length > 0 && turn < 200; turn++) {
              passTime(5_000);
              await deployment.alarm();
              await settle();
              await endOne(deployment, live, 0);
            }
            expect(live).toEqual([]);
            for (let turn = 0; turn < 4; turn++) {
              passTime(60_000);
              await deployment.alarm();
              await settle();
            }
            expect((await deployment.describe()).instances).toEqual([]);
          }),
      ),
      { numRuns: 6 },
    ));
});

/** Ends the prediction with a lease that `pick` chooses among those that have one. */
async function endOne(deployment: DeploymentObject, live: EnqueueRequest[], pick: number): Promise<void> {
  const leased: EnqueueRequest[] = [];
  for (const request of live) if ((await deployment.waitingFor(request)) === null) leased.push(request);
  const ended = leased[pick % Math.max(1, leased.length)];
  if (ended === undefined) return;
  await deployment.release([keyOf(ended)]);
  live.splice(live.indexOf(ended), 1);
}

/** A fleet with room for one instance, which boots at once and, drained, ends when nothing runs on it. */
class OneRoomHost {
  readonly #around: Surroundings;
  readonly #versions = new Map<string, string>();
  #occupant: string | null = null;
  #isReported = true;
  #count = 0;

  constructor(around: Surroundings) {
    this.#around = around;
    around.placeAnswer = () => {
      if (this.#occupant !== null) return { kind: "refused", reason: "no_room", detail: "full" };
      this.#count += 1;
      this.#occupant = `host${this.#count}`;
      this.#isReported = false;
      this.#versions.set(this.#occupant, around.placements.at(-1)?.version_id ?? "");
      return { kind: "placed", instance_id: this.#occupant, origin_id: "origin1" };
    };
  }

  expectVersion(instanceId: string, versionId: string): void {
    expect(this.#versions.get(instanceId)).toBe(versionId);
  }

  /** Lets everything happen that follows from the last step. */
  async settle(deployment: DeploymentObject): Promise<void> {
    for (let quiet = 0; quiet < 2; ) {
      const placed = this.#around.placements.length;
      await new Promise((done) => setTimeout(done, 0));
      const id = this.#occupant;
      const version_id = this.#versions.get(id ?? "") ?? "";
      const status = { instance_id: id ?? "", deployment_key: KEY, version_id };
      const row = (await deployment.describe()).instances.find((instance) => instance.instance_id === id);
      if (id !== null && row !== undefined && !this.#isReported) {
        this.#isReported = true;
        await deployment.instancesChanged("origin1", [aStatus(status)]);
        quiet = 0;
      } else if (id !== null && row?.leased === 0 && this.#around.drainedIds().includes(id)) {
        this.#occupant = null;
        await deployment.instancesChanged("origin1", [aStatus({ ...status, state: "stopped" })]);
        quiet = 0;
      } else quiet = placed === this.#around.placements.length ? quiet + 1 : 0;
    }
  }
}
