/**
 * `cogway push` of 1 GiB to the platform's registry, up to the build: with none of its blobs known, with half of them, and with all. The floor is what no push
 * can do without, in the same run: SHA-256 over every file, then over the bytes that are missing as they are written to the same disk.
 *   npm run bench -- push
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { Cli } from "../e2e/lib/cli.ts";
import { processTree } from "../e2e/lib/processes.ts";
import { temporaryFolder } from "../e2e/lib/system.ts";
import { printMachine, printTable } from "./lib/stats.ts";
import { startSystem, usage } from "./lib/system.ts";

const FILES = 16;
const FILE_BYTES = 64 * 1024 ** 2;
const MEMORY_POLL_MS = 50;

interface Push {
  seconds: number;
  layers: number;
  layers_sent: number;
  cli_mb: number;
  edge_mb: number;
}

const folder = temporaryFolder();
const weights = (n: number): string => join(folder, "model/weights", `${n}.bin`);

function writeModel(): void {
  mkdirSync(join(folder, "model/weights"), { recursive: true });
  writeFileSync(join(folder, "model/cog.yaml"), 'build:\n  python_version: "3.11"\nrun: "predict.py:Runner"\n');
  writeFileSync(
    join(folder, "model/predict.py"),
    "from cog import BaseRunner\n\n\nclass Runner(BaseRunner):\n    def run(self) -> str:\n        return 'x'\n",
  );
}

async function hashed(path: string, copy: string | null): Promise<void> {
  const hash = createHash("sha256");
  const file = copy === null ? null : await open(copy, "w");
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 ** 2 })) {
    hash.update(chunk);
    await file?.write(chunk);
  }
  await file?.sync();
  await file?.close();
}

/** Seconds for the digests of all files, then for the `missing` last ones with their bytes on disk. */
async function floor(missing: number): Promise<number> {
  const startedAt = performance.now();
  for (let n = 0; n < FILES; n++) await hashed(weights(n), null);
  const copy = join(folder, "copy");
  for (let n = FILES - missing; n < FILES; n++) await hashed(weights(n), copy);
  rmSync(copy, { force: true });
  return (performance.now() - startedAt) / 1_000;
}

printMachine();
const { system } = await startSystem(["noop"]);
try {
  const cli = new Cli(folder, { COGWAY_URL: system.url, COGWAY_TOKEN: system.api.token });
  /** The build that it begins is canceled: it is not what is measured. */
  const push = async (model: string): Promise<Push> => {
    const startedAt = performance.now();
    const running = cli.start(["push", join(folder, "model"), model, "--detach", "--json"]);
    let [cli_mb, edge_mb] = [0, 0];
    const watch = setInterval(() => {
      cli_mb = Math.max(cli_mb, ...processTree(running.pid).map(({ rss_mb }) => rss_mb));
      edge_mb = Math.max(edge_mb, usage(system).edge_mb);
    }, MEMORY_POLL_MS);
    const { code, stdout, stderr } = await running.finished;
    clearInterval(watch);
    const seconds = (performance.now() - startedAt) / 1_000;
    if (code !== 0) throw new Error(stderr);
    const events = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { event: string; id: string; layers: number; layers_sent: number });
    const build = events.find(({ event }) => event === "build");
    if (build !== undefined) await cli.ok(["builds", model, "--cancel", build.id]);
    const uploaded = events.find(({ event }) => event === "uploaded");
    if (uploaded === undefined) throw new Error(stdout);
    return { seconds, layers: uploaded.layers, layers_sent: uploaded.layers_sent, cli_mb, edge_mb };
  };
  writeModel();
  for (let n = 0; n < FILES; n++) writeFileSync(weights(n), randomBytes(FILE_BYTES));
  const megabytes = (FILES * statSync(weights(0)).size) / 1e6;
  const runs: { name: string; missing: number; push: Push }[] = [];
  runs.push({ name: "none known", missing: FILES, push: await push("cogway/bench-push") });
  for (let n = FILES / 2; n < FILES; n++) writeFileSync(weights(n), randomBytes(FILE_BYTES));
  runs.push({ name: "half known", missing: FILES / 2, push: await push("cogway/bench-push") });
  runs.push({ name: "all known", missing: 0, push: await push("cogway/bench-push") });
  const rows: (string | number)[][] = [];
  for (const { name, missing, push: run } of runs) {
    const least = await floor(missing);
    rows.push([
      name,
      `${run.layers_sent} of ${run.layers}`,
      run.seconds.toFixed(1),
      least.toFixed(1),
      `${(run.seconds / least).toFixed(2)}x`,
      missing === 0 ? "" : Math.round((megabytes * missing) / FILES / run.seconds),
      Math.round(run.cli_mb),
      Math.round(run.edge_mb),
    ]);
  }
  printTable(["push of 1 GiB", "layers sent", "s", "floor s", "ratio", "MB/s sent", "cogway MB", "edge MB"], rows);
  printMachine();
} finally {
  await system.stop();
  rmSync(folder, { recursive: true, force: true });
}
