/** What overtakes a canary: failures and changes while it waits for others. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, it, vi } from "vitest";
import { type CanaryState, NEW_CANARY, UNUSED_MS } from "../schema/canaries.ts";
import { CanaryObject } from "./canary.ts";
import type { CanaryRunsApi, ListedVersion } from "./canary-contract.ts";
import { aSpec, envWith, freshName } from "./testing/harness.ts";

const HOST = {
  state: "ready",
  hardware: [{ sku: "cpu", name: "CPU", cpus: 1, memory_bytes: 1_000_000, gpus: 0 }],
  capacity: { instances: 100, memory_bytes: 1_000_000 },
  used: { instances: 0, memory_bytes: 0, gpus: 0 },
};

interface Tools {
  versions: ListedVersion[];
  /** the Worker's part, which a test changes */
  runs: CanaryRunsApi;
  canary: CanaryObject;
  /** ends every canary that runs */
  end: () => void;
  sql: <T>(query: string, ...values: SqlStorageValue[]) => T[];
  /** has a deadline handled now */
  ring: (name: "walk" | "run") => Promise<void>;
}

/** A round of which `count` versions are known. */
function withCanaries(count: number, test: (tools: Tools) => Promise<void>): Promise<void> {
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  const around = envWith({
    predictions: {
      create: async () => {
        await ended;
        const now = Date.now();
        return { document: { state: "succeeded", created_at: now, completed_at: now } } as never;
      },
    },
    fleet: { listOrigins: async () => [HOST as never] },
    deployment: () => ({ describe: async () => ({ queue_length: 0, instances: [] }) as never }),
  });
  const versions = Array.from({ length: count }, (_, n): ListedVersion => {
    return { owner: "o", name: `m${n}`, version: String(n), is_latest: true, unhealthy_since: null };
  });
  const runs: CanaryRunsApi = {
    page: async () => versions,
    versionsOf: async () => versions,
    prepare: async () => ({ kind: "run", run: { spec: aSpec() } as never }),
    mark: async () => undefined,
    tellOwner: async () => undefined,
  };
  return runInDurableObject(env.CANARIES.getByName(freshName()), async (_object, state) => {
    class Round extends CanaryObject {
      protected override runs(): CanaryRunsApi {
        return runs;
      }
    }
    const sql = <T>(query: string, ...values: SqlStorageValue[]) =>
      state.storage.sql.exec(query, ...values).toArray() as T[];
    const ring = async (name: string) => {
      sql("INSERT OR REPLACE INTO deadlines VALUES (?, 1)", name);
      await new Round(state, around).alarm();
    };
    const canary = new Round(state, around);
    await canary.wake();
    await ring("walk");
    await test({ versions, runs, canary, end, sql, ring });
  });
}

it("goes on with its round when the ends of all its runs could not be marked", () =>
  withCanaries(5, async ({ runs, end, sql, ring }) => {
    sql("UPDATE canaries SET due_at = 1");
    await ring("run");
    const turn = () => sql("SELECT 1 FROM deadlines WHERE name = 'run'");
    expect(turn()).toEqual([]);
    runs.mark = async () => {
      throw new Error("D1 is away");
    };
    end();
    await vi.waitFor(() => expect(turn()).toHaveLength(1));
  }));

it("keeps what became of a version while its owner was told", () =>
  withCanaries(1, async ({ runs, sql, ring }) => {
    const unhealthy: CanaryState = { ...NEW_CANARY, failures_in_row: 3, unhealthy_since: 5 };
    const later: CanaryState = { ...unhealthy, failures_in_row: 4 };
    sql(
      "UPDATE canaries SET due_at = 1, first_seen_at = ?, state = ?",
      Date.now() - UNUSED_MS,
      JSON.stringify(unhealthy),
    );
    runs.prepare = async () => ({ kind: "not_run", is_lasting: false, detail: "It is paused." });
    runs.tellOwner = async () => {
      sql("UPDATE canaries SET running = 'p', state = ?", JSON.stringify(later));
    };
    await ring("run");
    const [row] = sql<{ running: string; state: string }>("SELECT running, state FROM canaries");
    expect(row?.running).toBe("p");
    expect(JSON.parse(row?.state ?? "")).toEqual({ ...later, told_at: expect.any(Number) });
  }));

it("does not forget a version that was made while the round read the catalog", () =>
  withCanaries(1, async ({ versions, runs, canary, sql, ring }) => {
    const made = { ...versions[0], owner: "o", name: "new", version: "1" } as ListedVersion;
    runs.versionsOf = async () => [made];
    runs.page = async () => {
      await canary.changed(["o/new"]);
      return versions;
    };
    await ring("walk");
    expect(sql("SELECT name FROM canaries ORDER BY name")).toEqual([{ name: "m0" }, { name: "new" }]);
  }));
