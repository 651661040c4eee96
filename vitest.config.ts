/**
 * The suites. `edge`: workers, durable-objects and schema inside workerd with real D1, R2 and SQLite objects. `platform-limits`: what local workerd
 * hides, also inside workerd. `origin`: gpu-origin and schema in Node over real coglet. `e2e`: the started system, one scenario a file; those that start their own
 * (`e2e-own`), then those that need the machine (`e2e-alone`), then those over one shared system. `simulator`: the real objects in seeded runs, under faults
 * (e2e/simulator). `chaos`: the system under kills, two scenarios at a time, then under floods and long loads, one at a time (`chaos-alone`). `gpu`: the same
 * on a host that has GPUs. `docker`: what needs a container engine, which e2e/engine/with-engine.ts starts around it; `docker-restart` restarts that, alone.
 */
import { mkdirSync } from "node:fs";
import { cloudflareTest, readD1Migrations } from "@cloudflare/vitest-pool-workers";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

if (Number(process.versions.node.split(".")[0]) < 22) {
  throw new Error("The tests need Node 24, which the npm package `node` brings: run them with `npm test`.");
}

// The Worker's assets: built by `npm test`, but a test that runs alone needs the folder at least.
mkdirSync("./dist/web", { recursive: true });

const SIGNING_SECRET = "dGVzdC1zaWduaW5nLXNlY3JldC0zMi1ieXRlcy1sb25n";
// The platform refuses a deployment without it; wrangler warns of its absence.
process.env["SIGNING_SECRET"] ??= SIGNING_SECRET;

const migrations = await readD1Migrations("./schema/migrations");

const workerd = () =>
  cloudflareTest({
    wrangler: { configPath: "./wrangler.toml" },
    miniflare: {
      bindings: {
        TEST_MIGRATIONS: migrations,
        SIGNING_SECRET,
        // SHA-256 of the text "join-token-of-tests"
        JOIN_TOKEN_SHA256: "95d6f598170181cee344340601849f66229590b899c5e0b07e0a8d50219ade71",
      },
    },
  });

/** Scenarios over one system that all of them leave as it was, one after another. */
const SHARED = [
  ...["cancel", "crash", "create", "example", "files", "idempotency", "list", "page"],
  ...["refused", "stream", "uploads"],
].map((name) => `e2e/${name}.e2e.ts`);

/** Those that need the machine for themselves. */
const ALONE = ["e2e/scale.e2e.ts"];

/** Kills and restarts under load, which are judged by what is lost, however slow they become. Then floods and long loads, whose rates and times are measured. */
const HARD = ["e2e/chaos/**/*.e2e.ts", "e2e/rolling.e2e.ts"];
const HARD_ALONE = ["overload", "fairness", "soak"].map((name) => `e2e/${name}.e2e.ts`);

/** Begun before others of their project: one that takes minutes and begins last is waited for by idle workers. */
const LONGEST = ["clients/clients", "batches", "edge-killed", "registry", "webhooks", "search"].map(
  (name) => `/e2e/${name}.e2e.ts`,
);

/** vitest's order (what failed or took long before comes first, if that is known), behind {@link LONGEST}. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification): boolean => LONGEST.some((path) => moduleId.endsWith(path));
    const [long, others] = [files.filter(isLong), files.filter((file) => !isLong(file))];
    return [...long, ...(await super.sort(others))];
  }
}

export default defineConfig({
  test: {
    // The Worker logs each request: shown for failed tests alone.
    silent: "passed-only",
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        plugins: [workerd()],
        test: {
          name: "edge",
          include: ["workers/**/*.test.ts", "durable-objects/**/*.test.ts", "schema/**/*.test.ts"],
          exclude: ["workers/web/**", "**/*.limits.test.ts", "**/node_modules/**"],
          setupFiles: ["./workers/testing/apply-migrations.ts"],
          // Each file gets a workerd of its own, most of whose start is on one core: two at a time take two thirds of the time, on two cores too.
          maxWorkers: 2,
          // Disks of shared machines make a commit take tens of milliseconds.
          testTimeout: 20_000,
        },
      },
      {
        plugins: [workerd()],
        test: {
          name: "platform-limits",
          include: ["workers/**/*.limits.test.ts", "durable-objects/**/*.limits.test.ts"],
          setupFiles: ["./workers/testing/apply-migrations.ts"],
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: "origin",
          environment: "node",
          include: [
            "gpu-origin/**/*.test.ts",
            "schema/**/*.test.ts",
            "workers/web/**/*.test.ts",
            "bench/fleet-sim/*.test.ts",
          ],
          exclude: ["**/*.live.test.ts", "**/*.docker.test.ts", "**/node_modules/**"],
          testTimeout: 30_000,
        },
      },
      ...[
        // Three systems at a time: most of their scenarios wait.
        {
          name: "e2e-own",
          exclude: ["e2e/docker/**", "e2e/gpu/**", ...HARD, ...HARD_ALONE, ...ALONE, ...SHARED],
          maxWorkers: 3,
          groupOrder: 1,
        },
        { name: "e2e-alone", include: ALONE, maxWorkers: 1, groupOrder: 2 },
        { name: "e2e", include: SHARED, globalSetup: ["./e2e/global-setup.ts"], maxWorkers: 1, groupOrder: 3 },
        { name: "chaos", include: HARD, maxWorkers: 2, groupOrder: 4 },
        { name: "chaos-alone", include: HARD_ALONE, maxWorkers: 1, groupOrder: 5 },
      ].map(({ groupOrder, ...of }) => ({
        test: {
          environment: "node" as const,
          include: ["e2e/**/*.e2e.ts"],
          sequence: { groupOrder },
          testTimeout: 120_000,
          hookTimeout: 300_000,
          ...of,
        },
      })),
      {
        test: {
          name: "simulator",
          environment: "node",
          include: ["e2e/simulator/*.sim.ts"],
          maxConcurrency: 2,
        },
      },
      {
        test: {
          name: "gpu",
          environment: "node",
          include: ["e2e/gpu/**/*.e2e.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 300_000,
        },
      },
      ...[
        // Two files at a time: most of them wait for containers.
        { name: "docker", exclude: ["e2e/docker/restart.e2e.ts"], maxWorkers: 2, groupOrder: 0 },
        { name: "docker-restart", include: ["e2e/docker/restart.e2e.ts"], maxWorkers: 1, groupOrder: 1 },
      ].map(({ groupOrder, ...of }) => ({
        test: {
          environment: "node" as const,
          include: ["gpu-origin/**/*.docker.test.ts", "e2e/docker/**/*.e2e.ts"],
          globalSetup: ["./e2e/docker/global-setup.ts"],
          sequence: { groupOrder },
          testTimeout: 120_000,
          hookTimeout: 300_000,
          ...of,
        },
      })),
    ],
  },
});
