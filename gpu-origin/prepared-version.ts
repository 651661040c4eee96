/**
 * A version that can be booted: what `versions/<id>/version.json` holds. Written once, when environment and schema were made; everything that running it
 * needs is here, so a version of an earlier start boots without its model folder.
 *
 *   versions/<id>/source/                         the model's files, unchanged; large ones may be links into the cache of blobs
 *   versions/<id>/source/.cog/openapi_schema.json the schema as coglet gets it (marked as streaming)
 *   versions/<id>/files.json                      which files those are; written when they are complete
 *   versions/<id>/weights/<name>/                 `weights` of cog.yaml, as they appear at their targets
 *   versions/<id>/version.json                    written last
 *   versions/.part-<random>/                      a source that is being brought; removed at the next start
 */
import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { PackageRefSchema } from "../schema/packages.ts";
import { secretTexts } from "../schema/secret-inputs.ts";
import type { SourceFolder } from "./builds/builder.ts";
import { listFiles, readFiles } from "./packaging/source.ts";

const EnvironmentSpecSchema = z.object({
  /** as cog.yaml says, such as "3.11"; null takes the host's */
  python_version: z.string().nullable(),
  /** text of the requirements file, or the packages, one a line */
  requirements: z.string(),
  /** commands of build.run, after the requirements */
  run: z.array(z.string()),
  /** commands of build.pre_install, before them */
  pre_install: z.array(z.string()).optional(),
  /** the requirements as they were resolved, a pinned package a line, so that every host gets the same; absent: not resolved beforehand */
  lock: z.string().optional(),
});
export type EnvironmentSpec = z.infer<typeof EnvironmentSpecSchema>;

const VersionWeightsSchema = z.object({
  name: z.string(),
  /** absolute: where the model looks for them */
  target: z.string(),
  files: z.array(
    z.object({
      /** below the target */
      path: z.string(),
      sha256: z.string(),
      size_bytes: z.number().int().min(0),
      /** a file of the source, or an https address */
      from: z.string(),
    }),
  ),
});
export type VersionWeights = z.infer<typeof VersionWeightsSchema>;

const SourceFilesSchema = z.array(z.object({ path: z.string(), size_bytes: z.number(), sha256: z.string() }));

export const PreparedVersionSchema = z.object({
  id: z.string().regex(/^[0-9a-f]{64}$/),
  name: z.string(),
  environment: EnvironmentSpecSchema,
  /** file.py:Name; null of an image, which knows its own */
  ref: z.string().nullable(),
  /** file.py:name of its trainer */
  train_ref: z.string().nullable().default(null),
  slots: z.number().int().min(1),
  memory_bytes: z.number().int().min(0),
  train_memory_bytes: z.number().int().min(0).nullable().default(null),
  idempotent: z.boolean(),
  /** metric that carries live tokens, from cogway.yaml */
  token_metric: z.string().nullable(),
  output_is_file_list: z.boolean(),
  /** `environment` of cog.yaml */
  env: z.record(z.string(), z.string()),
  /** SKU that it asks for, such as `gpu-h100` */
  hardware: z.string().default("cpu"),
  /** devices that each instance gets for itself */
  gpus: z.number().int().min(0).default(0),
  /** asks to open connections to public addresses */
  egress: z.boolean().default(false),
  /** `weights` of cog.yaml: files that appear below an absolute path */
  weights: z.array(VersionWeightsSchema).default([]),
  /** where its files come from; null is a folder of the operator */
  package: PackageRefSchema.nullable().default(null),
  /** the public schema */
  schema: z.record(z.string(), z.unknown()),
});
export type PreparedVersion = z.infer<typeof PreparedVersionSchema>;

const TEMPORARY = ".part-";

export class VersionStore {
  readonly root: string;
  /** how many use a version now */
  readonly #holders = new Map<string, number>();
  /** the source that is taken in now */
  #taking: Promise<void> = Promise.resolve();

  constructor(root: string) {
    this.root = root;
    if (!existsSync(root)) return;
    for (const name of readdirSync(root)) {
      if (name.startsWith(TEMPORARY)) rmSync(join(root, name), { recursive: true, force: true });
    }
    for (const id of this.ids()) this.discard(id);
  }

  folder(id: string): string {
    return join(this.root, id);
  }

  sourceFolder(id: string): string {
    return join(this.root, id, "source");
  }

  weightsFolder(id: string, name: string): string {
    return join(this.root, id, "weights", name);
  }

  /** A name for a source that is being brought, on the same disk as it will lie. */
  temporaryFolder(): string {
    return join(this.root, `${TEMPORARY}${randomBytes(8).toString("hex")}`);
  }

  /** Makes `folder` the source of its version, unless that is there already; `folder` is gone then, or of no use. */
  takeSource(source: SourceFolder): Promise<void> {
    // Two of the same source must not remove each other's.
    const taken = this.#taking.then(() => this.#takeSource(source));
    this.#taking = taken.catch(() => undefined);
    return taken;
  }

  async #takeSource({ id, folder, files }: SourceFolder): Promise<void> {
    const list = join(this.root, id, "files.json");
    if (!existsSync(join(this.root, id, "version.json")) && !existsSync(list)) {
      await rm(this.folder(id), { recursive: true, force: true });
      await mkdir(this.folder(id), { recursive: true, mode: 0o700 });
      await rename(folder, this.sourceFolder(id));
    }
    if (!existsSync(list)) writeWhole(list, JSON.stringify(files));
  }

  /** Null where its files are not, or not all. */
  async source(id: string, name: string): Promise<SourceFolder | null> {
    const folder = this.sourceFolder(id);
    const list = join(this.root, id, "files.json");
    if (existsSync(list)) {
      return { id, name, folder, files: SourceFilesSchema.parse(JSON.parse(readFileSync(list, "utf8"))) };
    }
    // Prepared by an earlier release, which wrote no list.
    if (this.get(id) === null || !existsSync(folder)) return null;
    return { id, name, folder, files: await readFiles(folder, listFiles(folder)) };
  }

  /** Keeps a version from being removed until it is called back, once. */
  hold(id: string): () => void {
    this.#holders.set(id, (this.#holders.get(id) ?? 0) + 1);
    if (existsSync(this.folder(id))) utimesSync(this.folder(id), new Date(), new Date());
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      const left = (this.#holders.get(id) ?? 1) - 1;
      if (left === 0) this.#holders.delete(id);
      else this.#holders.set(id, left);
    };
  }

  /** Removes what there is of a version whose making did not end well, unless somebody else is at it. */
  discard(id: string): void {
    if (this.#holders.has(id) || existsSync(join(this.root, id, "version.json"))) return;
    rmSync(this.folder(id), { recursive: true, force: true });
  }

  /** Removes the version that was used longest ago, of those that nobody uses and that can be fetched again. False when there is none. */
  removeOldest(): boolean {
    const idle = this.ids().filter((id) => !this.#holders.has(id) && (this.get(id)?.package ?? null) !== null);
    const [oldest] = idle
      .map((id) => ({ id, used_at: statSync(this.folder(id)).mtimeMs }))
      .sort((a, b) => a.used_at - b.used_at);
    if (oldest === undefined) return false;
    rmSync(this.folder(oldest.id), { recursive: true, force: true });
    return true;
  }

  /** Null when it was never prepared, or only half. */
  get(id: string): PreparedVersion | null {
    const path = join(this.root, id, "version.json");
    if (!/^[0-9a-f]{64}$/.test(id) || !existsSync(path)) return null;
    const parsed = PreparedVersionSchema.safeParse(JSON.parse(readFileSync(path, "utf8")));
    return parsed.success ? parsed.data : null;
  }

  /**
   * Makes the folder that a trainer starts in: links to the model's files, and a schema of its own, which coglet takes from its working folder. What a
   * trainer writes there is of one training alone.
   */
  makeTrainerFolder(version: PreparedVersion, folder: string): void {
    const source = this.sourceFolder(version.id);
    mkdirSync(join(folder, ".cog"), { recursive: true, mode: 0o700 });
    for (const name of readdirSync(source)) {
      if (name !== ".cog" && name !== "__pycache__") symlinkSync(join(source, name), join(folder, name));
    }
    writeFileSync(join(folder, ".cog", "openapi_schema.json"), JSON.stringify(schemaForCoglet(version.schema)));
  }

  save(version: PreparedVersion): void {
    mkdirSync(this.folder(version.id), { recursive: true, mode: 0o700 });
    writeWhole(join(this.root, version.id, "version.json"), JSON.stringify(version));
  }

  ids(): string[] {
    return existsSync(this.root) ? readdirSync(this.root).filter((name) => /^[0-9a-f]{64}$/.test(name)) : [];
  }
}

/** Whole, or not at all. */
function writeWhole(path: string, text: string): void {
  const temporary = `${path}.${randomBytes(4).toString("hex")}`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}

const ObjectSchema = z.record(z.string(), z.unknown());

function objectAt(value: unknown, ...path: string[]): Record<string, unknown> {
  let here = ObjectSchema.safeParse(value).data ?? {};
  for (const name of path) here = ObjectSchema.safeParse(here[name]).data ?? {};
  return here;
}

/**
 * A version as its trainer runs. In train mode coglet runs the trainer for predictions too, and only those have server-sent events; it validates them by
 * `Input`, so the trainer's input and output stand in that place.
 */
export function trainerOf(version: PreparedVersion): PreparedVersion {
  const components = objectAt(version.schema, "components");
  const schemas = objectAt(components, "schemas");
  const { TrainingInput: Input, TrainingOutput: Output } = schemas;
  return {
    ...version,
    slots: 1,
    token_metric: null,
    output_is_file_list: false,
    schema: { ...version.schema, components: { ...components, schemas: { ...schemas, Input, Output } } },
  };
}

/** Whether each element of the output is an event of its own. */
export function isIteratorOutput(schema: Record<string, unknown>): boolean {
  return objectAt(schema, "components", "schemas", "Output")["x-cog-array-type"] === "iterator";
}

/** Whether the output can hold files. Only of plain text, numbers and truth values it is known that it cannot. */
export function mayHoldFiles(schema: Record<string, unknown>): boolean {
  const output = objectAt(schema, "components", "schemas", "Output");
  const element = output.type === "array" ? objectAt(output, "items") : output;
  const isPlain = ["string", "integer", "number", "boolean"].includes(String(element.type));
  return !isPlain || element.format === "uri";
}

/** Names of inputs that are files, or lists of files. */
export function fileInputs(schema: Record<string, unknown>): string[] {
  const properties = objectAt(schema, "components", "schemas", "Input", "properties");
  return Object.keys(properties).filter((name) => {
    const property = objectAt(properties, name);
    return property.format === "uri" || objectAt(property, "items").format === "uri";
  });
}

/** The secrets among an input, to be kept out of what the model prints. */
export function secretsOf(schema: Record<string, unknown>, input: Record<string, unknown>): string[] {
  return secretTexts(objectAt(schema, "components", "schemas", "Input", "properties"), input);
}

/** The schema as coglet gets it: marked as streaming, which opens server-sent events for every model. The public one stays as it is. */
export function schemaForCoglet(schema: Record<string, unknown>): Record<string, unknown> {
  const paths = objectAt(schema, "paths");
  const predictions = objectAt(paths, "/predictions");
  const post = { ...objectAt(predictions, "post"), "x-cog-streaming": true };
  return { ...schema, paths: { ...paths, "/predictions": { ...predictions, post } } };
}
