import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { Rates } from "../schema/pricing.ts";
import type { DeploymentObject } from "./deployment.ts";
import { IDLE_ALERT_MS } from "./deployment-online.ts";
import type { OnlineCharge, SpendRefusal } from "./ledger-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { keyOf, type Surroundings, type Tools, withDeployment } from "./testing/deployment-world.ts";
import { anEnqueue, aSpec, aStatus, passTime, stopClockInEachTest } from "./testing/harness.ts";

const HOUR_MS = 3_600_000;
const rates: Rates = {
  basis: "online",
  hardware: "gpu-h100",
  items: [{ unit: "second", price_micros: 1_525, per: 1_000_000 }],
  discount_ppm: 0,
};
const online: RunSpec["online"] = { account_id: "alice", deployment: "alice/d", rates };
const spec = (change: Partial<RunSpec> = {}): RunSpec =>
  aSpec({ deployment_key: "deployment:alice/d", release: 1, min_instances: 1, max_instances: 1, online, ...change });

stopClockInEachTest();

/** An account that books each subject once, holds, and answers as it is told. */
class Books {
  readonly booked = new Map<string, OnlineCharge>();
  readonly held = new Map<string, number>();
  idle: unknown[] = [];
  busy: string[] = [];
  /** the call was taken, and its answer is lost */
  losesAnswers = false;
  refusal: SpendRefusal | null = null;
  /** until it answers */
  whenCharged: () => Promise<void> = async () => undefined;
  constructor(around: Surroundings) {
    Object.assign(around.account, {
      charge: async (charges: OnlineCharge[]) => {
        for (const charge of charges) {
          if (charge.lines.length > 0 && !this.booked.has(charge.subject)) this.booked.set(charge.subject, charge);
          if (charge.hold === undefined) continue;
          if (charge.hold.micros > 0 && this.refusal === null) this.held.set(charge.hold.id, charge.hold.micros);
          else this.held.delete(charge.hold.id);
        }
        await this.whenCharged();
        if (this.losesAnswers) throw new Error("lost");
        return charges.some(({ hold }) => (hold?.micros ?? 0) > 0) ? this.refusal : null;
      },
      deploymentIdle: async (idle: unknown) => {
        this.idle.push(idle);
      },
      deploymentBusy: async (deployment: string) => {
        this.busy.push(deployment);
      },
    });
  }
  /** microseconds in all */
  time(): number {
    return [...this.booked.values()].reduce((sum, { lines }) => sum + (lines[0]?.quantity ?? 0), 0);
  }
}

async function aReady(deployment: DeploymentObject, { around }: Tools): Promise<void> {
  await deployment.configure(spec());
  await vi.waitFor(() => expect(around.placements).toHaveLength(1));
  await vi.waitFor(async () => expect((await deployment.describe()).instances).toHaveLength(1));
  await deployment.instancesChanged("origin1", [aStatus()]);
}

describe("the paid life of an instance", () => {
  it("is the sum of its pieces from the boot to the end, whatever is lost and whenever the object restarts", async () => {
    const step = fc.record({
      ms: fc.integer({ min: 1, max: 100 * 60_000 }),
      restarts: fc.boolean(),
      loses: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (steps) => {
        await withDeployment(async (first, tools) => {
          const books = new Books(tools.around);
          let deployment = first;
          await aReady(deployment, tools);
          const { began } = tools.state.storage.sql
            .exec<{ began: number }>("SELECT placed_at AS began FROM instances")
            .one();
          for (const { ms, restarts, loses } of steps) {
            passTime(ms);
            books.losesAnswers = loses;
            if (restarts) deployment = tools.restart();
            await deployment.alarm();
          }
          const ended = Date.now();
          await deployment.instancesChanged("origin1", [aStatus({ state: "stopped" })]);
          books.losesAnswers = false;
          await vi.waitFor(async () => {
            passTime(10_000);
            await deployment.alarm();
            expect(books.time()).toBe((ended - began) * 1_000);
          });
          const pieces = [...books.booked.values()];
          for (const { lines } of pieces) expect(lines[0]?.quantity).toBeLessThanOrEqual(HOUR_MS * 1_000);
          expect(books.held.get("instance:instance1")).toBeUndefined();
        });
      }),
      { numRuns: 15 },
    );
  });

  it("holds the next hour as long as it lives, and names who and what it is", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await aReady(deployment, tools);
      await vi.waitFor(() => expect(books.held.get("instance:instance1")).toBe(5_490_000));
      passTime(HOUR_MS);
      await deployment.alarm();
      expect([...books.booked.values()]).toMatchObject([
        { basis: "online", deployment: "alice/d", model: "cogway/test", hardware: "gpu-h100", token_id: null },
      ]);
    }));

  it("costs nothing where its host was lost before it was ready", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await deployment.configure(spec());
      await vi.waitFor(async () => expect((await deployment.describe()).instances).toHaveLength(1));
      passTime(HOUR_MS / 2);
      await deployment.instancesGone("origin1", ["instance1"]);
      passTime(10_000);
      await deployment.alarm();
      expect(books.time()).toBe(0);
    }));

  it("ends where the account's caps refuse the next hour: what still runs does so for nothing, and new work is refused", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await aReady(deployment, tools);
      await vi.waitFor(() => expect(books.held.size).toBe(1));
      const detail = "The account's budget of $6 for this day does not allow it.";
      books.refusal = { kind: "over_budget", code: "billing.budget_exceeded", detail, resets_at: null };
      passTime(HOUR_MS);
      await deployment.alarm();
      const paid = books.time();
      await vi.waitFor(() => expect(tools.around.drainedIds()).toEqual(["instance1"]));
      expect(await deployment.enqueue(anEnqueue({ spec: spec() }))).toMatchObject({ kind: "refused", detail });
      expect(await deployment.scaling()).toMatchObject({
        ...{ wanted_instances: 0, reason: "budget used up", held_back: { detail, until: expect.any(Number) } },
        decisions: [
          { wanted: 0, reason: "budget used up" },
          { wanted: 1, reason: "minimum" },
        ],
      });
      passTime(HOUR_MS);
      await deployment.alarm();
      await deployment.instancesChanged("origin1", [aStatus({ state: "stopped" })]);
      expect(books.time()).toBe(paid);
      books.refusal = null;
      passTime(HOUR_MS);
      await deployment.alarm();
      await vi.waitFor(() => expect(tools.around.placements).toHaveLength(2));
      expect(await deployment.scaling()).toMatchObject({ reason: "minimum", held_back: null });
    }));

  it("holds nothing for an instance whose host was lost while its first hour was asked for", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      const { promise: taken, resolve: take } = Promise.withResolvers<void>();
      books.whenCharged = () => taken;
      await deployment.configure(spec());
      await vi.waitFor(() => expect(books.held.get("instance:instance1")).toBe(5_490_000));
      await deployment.instancesGone("origin1", ["instance1"]);
      take();
      await vi.waitFor(() => expect(books.held.has("instance:instance1")).toBe(false));
      expect(books.time()).toBe(0);
    }));

  it("holds nothing more for any instance once the caps refused one of them", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      const ofTwo = spec({ max_instances: 2 });
      await deployment.configure(ofTwo);
      await vi.waitFor(() => expect(books.held.size).toBe(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      const detail = "The account's budget of $6 for this day does not allow it.";
      books.refusal = { kind: "over_budget", code: "billing.budget_exceeded", detail, resets_at: null };
      await deployment.configure({ ...ofTwo, release: 2, min_instances: 2 });
      await vi.waitFor(() => expect(tools.around.drainedIds()).toContain("instance1"));
      await vi.waitFor(() => expect(books.held.size).toBe(0));
    }));

  it("is replaced nowhere when its host is drained while nobody pays for it", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await aReady(deployment, tools);
      await deployment.enqueue(anEnqueue({ spec: spec() }));
      await vi.waitFor(() => expect(books.held.size).toBe(1));
      books.refusal = { kind: "over_budget", code: "billing.budget_exceeded", detail: "No.", resets_at: null };
      passTime(HOUR_MS);
      await deployment.alarm();
      await vi.waitFor(async () => expect(await deployment.scaling()).toMatchObject({ reason: "budget used up" }));
      expect(await deployment.replaceInstances(["instance1"])).toEqual(["instance1"]);
      expect(await deployment.describe()).toMatchObject({ instances: [{ state: "draining", leased: 1 }] });
      await vi.waitFor(async () => expect(await deployment.scaling()).toMatchObject({ wanted_instances: 0 }));
      expect(tools.around.placements).toHaveLength(1);
    }));

  it("says to what waits that the budget is used up", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await aReady(deployment, tools);
      const [running, waiting] = [anEnqueue({ spec: spec() }), anEnqueue({ spec: spec() })];
      for (const request of [running, waiting]) await deployment.enqueue(request);
      const detail = "The account's budget of $6 for this day does not allow it.";
      books.refusal = { kind: "over_budget", code: "billing.budget_exceeded", detail, resets_at: null };
      passTime(HOUR_MS);
      await deployment.alarm();
      await vi.waitFor(async () =>
        expect(await deployment.waitingFor(waiting)).toMatchObject({ reason: "capacity", detail }),
      );
    }));

  it("is not paid by anybody on shared hardware", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await deployment.enqueue(anEnqueue());
      await vi.waitFor(() => expect(tools.around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      passTime(3 * HOUR_MS);
      await deployment.alarm();
      expect(books.booked.size + books.held.size).toBe(0);
    }));
});

describe("a deployment that is left idle", () => {
  it("is pointed out once after two days, and again only after it was used", () =>
    withDeployment(async (deployment, tools) => {
      const books = new Books(tools.around);
      await aReady(deployment, tools);
      for (let hours = 0; hours < IDLE_ALERT_MS / HOUR_MS + 3; hours++) {
        passTime(HOUR_MS);
        await deployment.alarm();
      }
      expect(books.idle).toMatchObject([{ deployment: "alice/d", instances: 1, hour_micros: 5_490_000 }]);
      const request = anEnqueue({ spec: spec() });
      await deployment.enqueue(request);
      await vi.waitFor(() => expect(books.busy).toEqual(["alice/d"]));
      await deployment.release([keyOf(request)]);
      passTime(HOUR_MS);
      await deployment.alarm();
      expect(books.idle).toHaveLength(1);
    }));
});
