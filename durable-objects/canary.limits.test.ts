/** What a round through a large catalog costs: rows, runs at once, work of one alarm. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import { CanaryObject } from "./canary.ts";
import type { CanaryRunsApi, CanaryVersion, ListedVersion } from "./canary-contract.ts";
import { aSpec, envWith } from "./testing/harness.ts";

const VERSIONS = 10_000;
/** A Durable Object may store 10 GB and hold 128 MB of memory. */
const BYTES_MAX = 20_000_000;
const IN_FLIGHT_MAX = 4;

function versionAt(n: number): ListedVersion {
  const version = n.toString(16).padStart(64, "0");
  return { owner: "o", name: `m${String(n).padStart(6, "0")}`, version, is_latest: true, unhealthy_since: null };
}

it("guarantees bounded rows, runs and turns: 10,000 versions take less than 2 KB each", async () => {
  let prepared = 0;
  const runs: Partial<CanaryRunsApi> = {
    async page(after: CanaryVersion | null, limit: number) {
      const from = after === null ? 0 : Number(after.name.slice(1)) + 1;
      return Array.from({ length: Math.min(limit, VERSIONS - from) }, (_, n) => versionAt(from + n));
    },
    async prepare() {
      prepared += 1;
      const run = {
        spec: aSpec(),
        shown_version: "a",
        input: {},
        shown_input: null,
        stream_kind: "text",
        log_lines: [],
      };
      return { kind: "run", run: run as never };
    },
  };
  let running = 0;
  const around = envWith({
    // They never end here.
    predictions: { create: () => new Promise(() => (running += 1)) },
    fleet: { listOrigins: async () => [anOrigin] },
    deployment: () => ({
      describe: async () => ({ queue_length: 0, leases: 0, instances: [], wanted_instances: 0, reason: "" }),
    }),
  });
  await runInDurableObject(env.CANARIES.getByName("limits"), async (_object, real) => {
    class Round extends CanaryObject {
      protected override runs(): CanaryRunsApi {
        return runs as CanaryRunsApi;
      }
    }
    const ring = async (part: string) => {
      real.storage.sql.exec("INSERT OR REPLACE INTO deadlines VALUES (?, 1)", part);
      await new Round(real, around).alarm();
    };
    await new Round(real, around).wake();
    const count = () => real.storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM canaries").one().n;
    for (let pages = 0; pages <= VERSIONS / 200; pages++) await ring("walk");
    expect(count()).toBe(VERSIONS);
    expect(real.storage.sql.databaseSize).toBeLessThan(BYTES_MAX);

    real.storage.sql.exec("UPDATE canaries SET due_at = 1");
    for (let turn = 0; turn < 5; turn++) await ring("run");
    expect({ prepared, running }).toEqual({ prepared: IN_FLIGHT_MAX, running: IN_FLIGHT_MAX });

    // A round that finds nothing of it any more takes it out.
    runs.page = async () => [];
    await ring("walk");
    expect(count()).toBe(0);
  });
});

const anOrigin = {
  ...{
    origin_id: "o",
    url: "",
    region: "local",
    driver: "fake",
    state: "ready" as const,
    instances: [],
    warm_versions: [],
  },
  hardware: [{ sku: "cpu", name: "CPU", cpus: 1, memory_bytes: 1_000_000, gpus: 0 }],
  capacity: { instances: 100, memory_bytes: 1_000_000 },
  used: { instances: 0, memory_bytes: 0, gpus: 0 },
  last_seen_at: 0,
};
