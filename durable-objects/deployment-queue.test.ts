import { describe, expect, it, vi } from "vitest";
import { DeploymentObject } from "./deployment.ts";
import type { EnqueueRequest } from "./deployment-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { keyOf, Surroundings, withDeployment } from "./testing/deployment-world.ts";
import { anEnqueue, aSpec, aStatus, freshName, passTime, stopClockInEachTest, withObject } from "./testing/harness.ts";

stopClockInEachTest();

describe("inputs of batches", () => {
  it("guarantees that they run when nothing else waits, in their own order, and are not forgotten", () =>
    withDeployment(async (deployment, { around }) => {
      const batch = ["b1", "b2", "b3"].map((id) =>
        anEnqueue({ prediction_id: id, account_id: "batcher", priority: 1 }),
      );
      for (const request of batch) await deployment.enqueue(request);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await vi.waitFor(() => expect(around.grantedIds()).toEqual(["b1"]));
      const others = ["p1", "p2"].map((id) => anEnqueue({ prediction_id: id, account_id: "batcher" }));
      for (const request of others) await deployment.enqueue(request);
      expect(await deployment.waitingFor(others[0] as EnqueueRequest)).toMatchObject({ queue_position: 1 });
      const order = [];
      for (let held = batch[0]; held !== undefined; ) {
        around.granted = [];
        order.push(held.prediction_id);
        await deployment.release([keyOf(held)]);
        if (order.length === 5) break;
        await vi.waitFor(() => expect(around.granted).toHaveLength(1));
        held = [...batch, ...others].find((request) => request.prediction_id === around.granted[0]?.prediction_id);
      }
      expect(order).toEqual(["b1", "p1", "p2", "b2", "b3"]);
    }));

  it("guarantees that they alone are demand enough: the first instance comes at once, more for a long queue", () =>
    withDeployment(async (deployment, { around }) => {
      const spec = aSpec({ max_instances: 2 });
      for (let n = 0; n < 8; n++) await deployment.enqueue(anEnqueue({ spec, priority: 1 }));
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
    }));
});

describe("a disabled deployment", () => {
  const enabled = aSpec({ deployment_key: "deployment:alice/service", release: 1 });
  const disabled: RunSpec = { ...enabled, release: 2, max_instances: 0 };

  it("guarantees that what runs and waits is canceled for its callers, again until it ends, and that nothing is taken in", () =>
    withDeployment(async (deployment, { around, restart }) => {
      const running = anEnqueue({ spec: enabled, account_id: "alice" });
      const queued = anEnqueue({ spec: enabled, account_id: "bob" });
      await deployment.configure(enabled);
      await deployment.enqueue(running);
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await vi.waitFor(() => expect(around.granted).toHaveLength(1));
      await deployment.enqueue(queued);
      around.whenCanceled = async () => {
        throw new Error("away");
      };
      await deployment.configure(disabled);
      await vi.waitFor(() => expect(around.drained).toHaveLength(1));
      await vi.waitFor(() => expect(around.canceled).toHaveLength(2));
      around.canceled = [];
      around.whenCanceled = async (id) => {
        const ended = id === running.prediction_id ? running : queued;
        await again.release([keyOf(ended)]);
        return {} as never;
      };
      const again = restart();
      passTime(1_000);
      await again.alarm();
      expect(around.canceled).toEqual(
        expect.arrayContaining([
          { prediction_id: running.prediction_id, account_id: "alice" },
          { prediction_id: queued.prediction_id, account_id: "bob" },
        ]),
      );
      expect(await again.describe()).toMatchObject({ queue_length: 0, leases: 0, reason: "disabled" });
      expect(await again.enqueue(anEnqueue({ spec: enabled }))).toMatchObject({
        kind: "refused",
        code: "deployment.disabled",
      });
      await again.instancesChanged("origin1", [aStatus({ state: "stopped" })]);
      expect(around.placements).toHaveLength(1);
      await again.configure({ ...enabled, release: 3 });
      expect(await again.enqueue(anEnqueue({ spec: { ...enabled, release: 3 } }))).toMatchObject({ kind: "queued" });
    }));

  it("guarantees that a place of a prediction that was never stored is given back", () =>
    withDeployment(async (deployment, { around }) => {
      await deployment.enqueue(anEnqueue({ spec: enabled }));
      around.whenCanceled = async () => null;
      await deployment.configure(disabled);
      await vi.waitFor(async () => expect(await deployment.describe()).toMatchObject({ queue_length: 0 }));
    }));
});

describe("the end of a deployment", () => {
  const MINUTES_15 = 900_000;
  const spec = aSpec({ deployment_key: "deployment:alice/service", release: 7 });

  it("guarantees that it comes only without instances and 15 minutes after the last prediction, and that a new one of the name starts anew", () =>
    withDeployment(async (deployment, { around, restart }) => {
      const request = anEnqueue({ spec });
      await deployment.configure(spec);
      await deployment.enqueue(request);
      expect(await deployment.retire(MINUTES_15)).toMatchObject({ retired: false, free_at: null });
      await vi.waitFor(() => expect(around.placements).toHaveLength(1));
      await deployment.instancesChanged("origin1", [aStatus()]);
      await deployment.release([keyOf(request)]);
      expect(await deployment.retire(MINUTES_15)).toEqual({ retired: false, instances: 1, free_at: null });
      await deployment.instancesGone("origin1", ["instance1"]);
      const free_at = Date.now() + MINUTES_15;
      expect(await deployment.retire(MINUTES_15)).toEqual({ retired: false, instances: 0, free_at });
      passTime(MINUTES_15 - 1);
      expect(await restart().retire(MINUTES_15)).toMatchObject({ retired: false });
      passTime(1);
      const again = restart();
      expect(await again.retire(MINUTES_15)).toEqual({ retired: true });
      expect(await again.retire(MINUTES_15)).toEqual({ retired: true });
      expect(await restart().enqueue(anEnqueue({ spec }))).toMatchObject({
        kind: "refused",
        code: "deployment.not_found",
      });
      const anew = { ...spec, release: 1 };
      await again.configure(anew);
      expect(await again.enqueue(anEnqueue({ spec: anew }))).toMatchObject({ kind: "queued" });
      await vi.waitFor(() => expect(around.placements).toHaveLength(2));
    }));

  it("guarantees that one that was never used ends at once, and stores nothing where there was none", () =>
    withDeployment(async (deployment, { state }) => {
      expect(await deployment.retire(MINUTES_15)).toEqual({ retired: true });
      expect(state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name = 'deployment'").toArray()).toEqual([]);
      await deployment.configure(spec);
      expect(await deployment.retire(MINUTES_15)).toEqual({ retired: true });
    }));
});

describe("data of the first release of this software", () => {
  it("guarantees that its queue, leases and instances go on", () =>
    withObject("DEPLOYMENTS", freshName(), async (state) => {
      const { release: _release, mode: _mode, weights: _weights, ...spec } = aSpec();
      const facts = {
        ...{ boot_ms: 1_000, setup_ms: 9_000, run_ms: 10, setup_failures: 0, setup_error: null, hold_until: 0 },
        ...{ runs: 4, report: { seq: 5, runs: 6 }, last_report_seq: 5 },
      };
      state.storage.sql.exec(`
        CREATE TABLE queue (arrival INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL, attempt INTEGER NOT NULL,
          account_id TEXT NOT NULL, enqueued_at INTEGER NOT NULL, turn INTEGER NOT NULL, refused INTEGER NOT NULL, UNIQUE (prediction_id, attempt));
        CREATE INDEX queue_by_turn ON queue (refused, turn, arrival);
        CREATE INDEX queue_by_account ON queue (account_id, turn);
        CREATE TABLE leases (prediction_id TEXT NOT NULL, attempt INTEGER NOT NULL, instance_id TEXT NOT NULL, origin_id TEXT NOT NULL,
          leased_at INTEGER NOT NULL, PRIMARY KEY (prediction_id, attempt)) WITHOUT ROWID;
        CREATE TABLE instances (instance_id TEXT PRIMARY KEY, origin_id TEXT NOT NULL, state TEXT NOT NULL, slots INTEGER NOT NULL,
          placed_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE deployment (one INTEGER PRIMARY KEY CHECK (one = 1), spec TEXT NOT NULL, facts TEXT NOT NULL);
        INSERT INTO queue VALUES (1, 'waits', 1, 'alice', 0, 0, 0);
        INSERT INTO leases VALUES ('runs', 1, 'instance1', 'origin1', ${Date.now()});
        INSERT INTO instances VALUES ('instance1', 'origin1', 'ready', 1, 0, 0, 0);
      `);
      state.storage.sql.exec("INSERT INTO deployment VALUES (1, ?, ?)", JSON.stringify(spec), JSON.stringify(facts));
      const around = new Surroundings();
      const deployment = new DeploymentObject(state as never, around.env());
      expect(await deployment.describe()).toMatchObject({
        queue_length: 1,
        leases: 1,
        instances: [{ instance_id: "instance1", is_current: true }],
      });
      const sent = anEnqueue({ prediction_id: "later", spec: spec as RunSpec });
      expect(await deployment.enqueue(sent)).toEqual({ kind: "queued", queue_position: 2 });
      await deployment.release([{ prediction_id: "runs", attempt: 1, ran_ms: 1 }]);
      await vi.waitFor(() => expect(around.grantedIds()).toContain("waits"));
      await deployment.release([{ prediction_id: "waits", attempt: 1, ran_ms: 1 }]);
      await vi.waitFor(() => expect(around.grantedIds()).toContain("later"));
      expect(around.placements).toEqual([]);
      expect(around.drained).toEqual([]);
    }));
});

describe("runs of several models on the instances of one", () => {
  it("guarantees that each counts for its own", () =>
    withObject("DEPLOYMENTS", freshName(), async (state) => {
      const totals = new Map<string, number>();
      const counter = {
        idFromName: (name: string) => name,
        get: (name: string) => ({
          fetch: async (request: Request) => {
            const [report] = JSON.parse(request.headers.get("do-content") ?? "[]") as { runs: number }[];
            totals.set(name, (totals.get(name) ?? 0) + (report?.runs ?? 0));
            return Response.json({ total: 1 });
          },
        }),
      };
      const env = { ...new Surroundings().env(), RUN_COUNTERS: counter } as unknown as Env;
      const deployment = new DeploymentObject(state as never, env);
      const spec = aSpec({ slots: 5 });
      const requests = ["a", "b", "c"].map((id) => anEnqueue({ prediction_id: id, spec }));
      for (const request of requests) await deployment.enqueue(request);
      await deployment.instancesChanged("origin1", [aStatus({ slots: 5 })]);
      await deployment.release(
        requests.map((request, i) => ({
          ...keyOf(request),
          model: i === 0 ? "alice/tuned" : "cogway/base",
          end: { version: "v", outcome: "succeeded", platform_failure: false } as const,
        })),
      );
      for (let turn = 0; turn < 4; turn++) {
        passTime(10_000);
        await deployment.alarm();
      }
      const counted = [...totals].filter(([, runs]) => runs > 0);
      expect(Object.fromEntries(counted)).toEqual({ "model:alice/tuned": 1, "model:cogway/base": 2 });
    }));
});
