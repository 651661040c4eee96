/**
 * A version that can be booted: what `versions/<id>/version.json` holds. Written once, when environment and schema were made; everything that running it
 * needs is here, so a version of an earlier start boots without its model folder.
 *
 *   versions/<id>/source/                         the model's files, unchanged
 *   versions/<id>/source/.cog/openapi_schema.json the schema as coglet gets it (marked as streaming)
 *   versions/<id>/version.json                    written last
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { PackageRefSchema } from "../schema/packages.ts";
import { secretTexts } from "../schema/secret-inputs.ts";

const EnvironmentSpecSchema = z.object({
  /** as cog.yaml says, such as "3.11"; null takes the host's */
  python_version: z.string().nullable(),
  /** text of the requirements file, or the packages, one a line */
  requirements: z.string(),
  /** commands of build.run, after the requirements */
  run: z.array(z.string()),
  /** the requirements as they were resolved, a pinned package a line, so that every host gets the same; absent: not resolved beforehand */
  lock: z.string().optional(),
});
export type EnvironmentSpec = z.infer<typeof EnvironmentSpecSchema>;

const PreparedVersionSchema = z.object({
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
  /** where its files come from; null is a folder of the operator */
  package: PackageRefSchema.nullable().default(null),
  /** the public schema */
  schema: z.record(z.string(), z.unknown()),
});
export type PreparedVersion = z.infer<typeof PreparedVersionSchema>;

export class VersionStore {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  folder(id: string): string {
    return join(this.#root, id);
  }

  sourceFolder(id: string): string {
    return join(this.#root, id, "source");
  }

  /** Null when it was never prepared, or only half. */
  get(id: string): PreparedVersion | null {
    const path = join(this.#root, id, "version.json");
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
    const path = join(this.#root, version.id, "version.json");
    const temporary = `${path}.${randomBytes(4).toString("hex")}`;
    writeFileSync(temporary, JSON.stringify(version));
    renameSync(temporary, path);
  }

  ids(): string[] {
    return existsSync(this.#root) ? readdirSync(this.#root).filter((name) => /^[0-9a-f]{64}$/.test(name)) : [];
  }
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
