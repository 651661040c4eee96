/** A deployment whose hosts are drained, and whose idle instances the fleet holds in memory. */
import { describe, expect, it, vi } from "vitest";
import { keyOf, withDeployment } from "./testing/deployment-world.ts";
import { anEnqueue, aSpec, aStatus, passTime, stopClockInEachTest } from "./testing/harness.ts";

const DAY_MS = 86_400_000;

stopClockInEachTest();

describe("an instance that is held in memory", () => {
  it("is gone while it is paused, and takes work at once when the fleet resumes it under the same id", () =>
    withDeployment(async (deployment, { around }) => {
      const first = anEnqueue();
      await deployment.enqueue(first);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([first.prediction_id]));
      await deployment.release([keyOf(first)]);
      passTime(DAY_MS);
      await deployment.alarm();
      await vi.waitFor(() => expect(around.drained).toMatchObject([{ instance_id: "instance1", reason: "idle" }]));
      await deployment.instancesChanged("origin1", [aStatus({ state: "paused" })]);
      expect((await deployment.describe()).instances.filter(({ state }) => state !== "stopped")).toEqual([]);

      around.placeAnswer = () => ({
        ...{ kind: "placed", instance_id: "instance1", origin_id: "origin1", resumed: true },
      });
      const second = anEnqueue();
      expect(await deployment.enqueue(second)).toMatchObject({ kind: "queued" });
      // No word of its origin is waited for.
      await vi.waitFor(() => expect(around.grantedIds()).toEqual([first.prediction_id, second.prediction_id]));
      expect(around.granted.at(-1)).toMatchObject({ instance_id: "instance1", origin_id: "origin1" });
      // A word from before it was resumed, told late or once more: it lives, and takes what comes next.
      await deployment.instancesChanged("origin1", [aStatus({ state: "paused" })]);
      await deployment.release([keyOf(second)]);
      expect(await deployment.enqueue(anEnqueue())).toMatchObject({
        kind: "leased",
        lease: { instance_id: "instance1" },
      });
    }));
});

describe("a host that is drained", () => {
  it("keeps an instance that is used until another is ready, which is asked for once; then it finishes and goes", () =>
    withDeployment(async (deployment, { around }) => {
      const running = anEnqueue();
      await deployment.enqueue(running);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await vi.waitFor(() => expect(around.granted).toHaveLength(1));
      around.placeAnswer = () => ({ kind: "placed", instance_id: "elsewhere", origin_id: "origin2" });

      expect(await deployment.replaceInstances(["instance1", "unknown"])).toEqual(["unknown"]);
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
      expect(await deployment.replaceInstances(["instance1"])).toEqual([]);
      await deployment.instancesChanged("origin2", [aStatus({ instance_id: "elsewhere" })]);
      expect(await deployment.replaceInstances(["instance1"])).toEqual(["instance1"]);
      expect(around.placements).toHaveLength(2);
      const { instances } = await deployment.describe();
      expect(instances.find(({ instance_id }) => instance_id === "instance1")).toMatchObject({
        ...{ state: "draining", leased: 1 },
      });
      expect(await deployment.enqueue(anEnqueue())).toMatchObject({ lease: { instance_id: "elsewhere" } });
    }));

  it("places replacements beside what leaves, also where that is more than the maximum for a while", () =>
    withDeployment(async (deployment, { around }) => {
      const spec = aSpec({ min_instances: 2, max_instances: 2, release: 1 });
      await deployment.configure(spec);
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
      const both = ["instance1", "instance2"];
      const ready = (ids: string[]) => ids.map((instance_id) => aStatus({ instance_id }));
      await deployment.instancesChanged("origin1", ready(both));
      for (const request of [anEnqueue({ spec }), anEnqueue({ spec })]) {
        expect(await deployment.enqueue(request)).toMatchObject({ kind: "leased" });
      }
      expect(await deployment.replaceInstances(both)).toEqual([]);
      await vi.waitFor(() => expect(around.placements).toHaveLength(4));
      await deployment.instancesChanged("origin2", ready(["instance3", "instance4"]));
      expect(around.drained).toEqual([]);
      expect((await deployment.replaceInstances(both)).toSorted()).toEqual(both);
      expect(around.placements).toHaveLength(4);
    }));

  it("lets an instance go at once that nobody uses, but not below the minimum", () =>
    withDeployment(async (deployment, { around }) => {
      await deployment.configure(aSpec({ min_instances: 1, release: 1 }));
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      passTime(60_000);
      expect(await deployment.replaceInstances(["instance1"])).toEqual([]);
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
      await deployment.configure(aSpec({ min_instances: 0, release: 2 }));
      expect(await deployment.replaceInstances(["instance1"])).toEqual(["instance1"]);
    }));
});
