/** Models that cannot be set up: who is told, when, and when it is tried again. */
import { describe, expect, it, vi } from "vitest";
import type { Lease, LeaseKey } from "./deployment-contract.ts";
import { SETUP_FAILURES_MAX } from "./deployment-setups.ts";
import { withDeployment } from "./testing/deployment-world.ts";
import { anEnqueue, aStatus, passTime, stopClockInEachTest } from "./testing/harness.ts";

stopClockInEachTest();

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

  it("guarantees that the deadline does not tell again what is being told", () =>
    withDeployment(async (deployment, { around }) => {
      const { promise: taken, resolve: take } = Promise.withResolvers<void>();
      around.whenRefused = async () => (around.refused.length === 1 ? taken : undefined);
      await deployment.enqueue(anEnqueue());
      for (let n = 1; n <= SETUP_FAILURES_MAX; n++) await deployment.instancesChanged("origin1", [failed(n)]);
      await vi.waitFor(() => expect(around.refused).toHaveLength(1));
      passTime(5_000);
      await deployment.alarm();
      expect(around.refused).toHaveLength(1);
      take();
    }));
});
