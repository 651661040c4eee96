/** Instances that come, are asked for again, are lost and go. */
import { describe, expect, it, vi } from "vitest";
import type { Lease } from "./deployment-contract.ts";
import type { PlaceResult } from "./fleet-contract.ts";
import { keyOf, withDeployment, withReady } from "./testing/deployment-world.ts";
import { anEnqueue, aSpec, aStatus, passTime, stopClockInEachTest } from "./testing/harness.ts";

stopClockInEachTest();

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

  it("guarantees that a placement is asked for anew when a deadline rang while it was on its way, and then the object crashed", () =>
    withDeployment(async (deployment, { around, restart }) => {
      around.placeAnswer = () => new Promise<PlaceResult>(() => {}) as never;
      await deployment.enqueue(anEnqueue());
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      for (let rings = 0; rings < 2; rings++) {
        passTime(30_000);
        await deployment.alarm();
      }
      expect(around.placements).toHaveLength(1);
      passTime(30_000);
      await restart().alarm();
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
    }));
});
