/**
 * Makes the schema of a model in a container of its image: nothing of a model runs on the host. The container has no network, writes nothing but a small
 * memory disk, and is bounded in memory, processes, time and in what it prints.
 */
import { readFileSync } from "node:fs";
import { PassThrough, Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import type Docker from "dockerode";
import { z } from "zod";
import type { Mount } from "./builder.ts";
import { MODEL_UID, SOURCE_FOLDER } from "./dockerfile.ts";
import { messageOf } from "./engine-call.ts";
import { type SchemaFacts, SchemaFactsSchema } from "./source-model.ts";

const MAKE_SCHEMA = fileURLToPath(new URL("../python/make_schema.py", import.meta.url));
/** Importing a predictor may import a framework. */
const SCHEMA_TIMEOUT_S = 300;
const KILL_AFTER_MS = 10_000;
const MEMORY_BYTES = 4 * 1024 ** 3;
const TMP_BYTES = 256 * 1024 ** 2;
const PIDS_MAX = 256;
const CPUS = 2;
/** A schema with thousands of choices is below it. */
const OUTPUT_BYTES_MAX = 8 * 1024 ** 2;
const ERROR_BYTES_MAX = 65_536;
/** Its value names the origin: at the next start what this process left is removed. */
export const SCHEMA_CONTAINER_LABEL = "run.cogway.schema";

export interface SchemaRun {
  originId: string;
  image: string;
  ref: string;
  train_ref: string | null;
  mounts: Mount[];
  /** runtime of the engine; null takes its own */
  runtime: string | null;
  signal: AbortSignal;
}

export type SchemaMade =
  | { kind: "made"; facts: SchemaFacts }
  /** the last line says what its author has to change */
  | { kind: "failed"; detail: string; lines: string[] };

export async function makeSchema(docker: Docker, run: SchemaRun): Promise<SchemaMade> {
  const train = run.train_ref === null ? [] : ["--train-ref", run.train_ref];
  // As an argument: the container's disk cannot be written to, and the engine may be on another host.
  const program = readFileSync(MAKE_SCHEMA, "utf8");
  const container = await docker.createContainer({
    Image: run.image,
    Cmd: [
      "python",
      "-c",
      program,
      "--ref",
      run.ref,
      ...train,
      "--out",
      "/tmp/schema.json",
      "--timeout",
      String(SCHEMA_TIMEOUT_S),
    ],
    Env: ["HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HOME=/tmp"],
    User: `${MODEL_UID}:${MODEL_UID}`,
    WorkingDir: SOURCE_FOLDER,
    AttachStdout: true,
    AttachStderr: true,
    Labels: { [SCHEMA_CONTAINER_LABEL]: run.originId },
    HostConfig: {
      NetworkMode: "none",
      ReadonlyRootfs: true,
      Tmpfs: { "/tmp": `rw,nosuid,nodev,size=${TMP_BYTES},mode=1777` },
      Memory: MEMORY_BYTES,
      MemorySwap: MEMORY_BYTES,
      PidsLimit: PIDS_MAX,
      NanoCpus: CPUS * 1e9,
      CapDrop: ["ALL"],
      SecurityOpt: ["no-new-privileges"],
      LogConfig: { Type: "none", Config: {} },
      Init: true,
      Mounts: run.mounts.map(({ source, target }) => ({
        Type: "bind",
        Source: source,
        Target: target,
        ReadOnly: true,
      })),
      ...(run.runtime === null ? {} : { Runtime: run.runtime }),
    },
  });
  try {
    return await runToEnd(container, run);
  } finally {
    await container.remove({ force: true, v: true }).catch(() => {});
  }
}

async function runToEnd(container: Docker.Container, run: SchemaRun): Promise<SchemaMade> {
  const stream = await container.attach({ stream: true, stdout: true, stderr: true });
  if (!(stream instanceof Readable)) throw new Error("the engine shows no output of containers");
  const [out, err] = [new PassThrough(), new PassThrough()];
  container.modem.demuxStream(stream, out, err);
  const kill = (): void => void container.kill().catch(() => {});
  const output = bounded(out, OUTPUT_BYTES_MAX, kill);
  const errors = bounded(err, ERROR_BYTES_MAX, null);
  stream.on("end", () => {
    out.end();
    err.end();
  });
  const timer = setTimeout(kill, SCHEMA_TIMEOUT_S * 1000 + KILL_AFTER_MS);
  run.signal.addEventListener("abort", kill, { once: true });
  try {
    run.signal.throwIfAborted();
    await container.start();
    const { StatusCode } = z.object({ StatusCode: z.number() }).parse(await container.wait());
    const state = (await container.inspect()).State;
    stream.destroy();
    out.end();
    err.end();
    const lines = (await errors).split("\n").filter((line) => line.trim() !== "");
    const fail = (detail: string): SchemaMade => ({ kind: "failed", detail, lines });
    if (state.OOMKilled)
      return fail(
        `${run.ref}: importing it needs more than ${MEMORY_BYTES / 1024 ** 3} GiB of memory; load weights in setup().`,
      );
    if (StatusCode !== 0) return fail(lines.at(-1) ?? `${run.ref}: its schema could not be made (exit ${StatusCode}).`);
    const facts = SchemaFactsSchema.safeParse(parseJson((await output).trim().split("\n").at(-1) ?? ""));
    return facts.success ? { kind: "made", facts: facts.data } : fail(`${run.ref}: its schema could not be read.`);
  } catch (error) {
    if (run.signal.aborted) throw error;
    return { kind: "failed", detail: `The schema could not be made: ${messageOf(error)}`, lines: [] };
  } finally {
    clearTimeout(timer);
    run.signal.removeEventListener("abort", kill);
    stream.destroy();
  }
}

/** Reads to the end and keeps the last bytes; more than `max` is told once. */
async function bounded(stream: AsyncIterable<Buffer>, max: number, onTooMuch: (() => void) | null): Promise<string> {
  let kept: Buffer = Buffer.of();
  let seen = 0;
  for await (const chunk of stream) {
    seen += chunk.length;
    if (seen > max) onTooMuch?.();
    kept = Buffer.concat([kept, chunk]).subarray(-max);
  }
  return kept.toString("utf8");
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
