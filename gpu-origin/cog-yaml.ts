/** Reads a model folder's cog.yaml (Cog's own file) and cogway.yaml (what Cog has no words for). Faults are one line each, with the line of the file. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { LineCounter, parseDocument } from "yaml";
import { z } from "zod";
import { NAME_PATTERN } from "../schema/ids.ts";

const RefSchema = z.string().regex(/^[^:]+\.py:\w+$/, 'must be "file.py:Name"');
/** Unquoted, 3.10 is the number 3.1; Cog refuses versions below 3.10, so the meaning is clear. */
const PythonVersionSchema = z
  .union([z.string(), z.number()])
  .transform((value) => (typeof value === "number" && value === 3.1 ? "3.10" : String(value)));

const CogYamlSchema = z.object({
  run: RefSchema.optional(),
  predict: RefSchema.optional(),
  train: RefSchema.optional(),
  environment: z.array(z.string().regex(/^[A-Za-z_]\w*=/, "must be NAME=value")).default([]),
  concurrency: z.object({ max: z.number().int().min(1).optional() }).default({}),
  build: z
    .object({
      gpu: z.boolean().default(false),
      python_version: PythonVersionSchema.optional(),
      python_requirements: z.string().optional(),
      python_packages: z.array(z.string()).optional(),
      system_packages: z.array(z.string()).optional(),
      run: z.array(z.union([z.string(), z.object({ command: z.string() })])).default([]),
      sdk_version: z.union([z.string(), z.number()]).optional(),
    })
    .prefault({}),
});

const CogwayYamlSchema = z
  .strictObject({
    title: z.string(),
    description: z.string(),
    tags: z.array(z.string()),
    /** running it twice does no harm and gives the same output */
    idempotent: z.boolean(),
    token_metric: z.string(),
    weights_license: z.string(),
    visibility: z.enum(["public", "private"]),
    /** slugs of collections that show it, such as `text-generation` */
    collections: z.array(z.string().regex(NAME_PATTERN, "must be the slug of a collection")),
    /** kept warm, with a schema that never breaks its callers, for a price of each unit of its output */
    official: z.strictObject({ unit: z.string().min(1).max(64), price_micros: z.number().int().min(0) }),
    memory_mb: z.number().int().positive(),
    /** what its trainer needs; as much as a prediction unless given */
    train_memory_mb: z.number().int().positive(),
    environment_mb: z.number().min(0),
    openai: z.unknown(),
  })
  .partial();

export type CogYaml = z.infer<typeof CogYamlSchema>;
export type CogwayYaml = z.infer<typeof CogwayYamlSchema>;

/** The author has to change something; the message is one line that says what and where. */
export class ModelFault extends Error {}

/** Environment variables that a model may not set: they are ours, or would change how Python starts. */
const REFUSED_VARIABLES =
  /^(PATH|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV|PYTHONUNBUFFERED|LIBRARY_PATH|PORT|TMPDIR|RUST_LOG|LD_PRELOAD|COG_.*|COGWAY_.*|R8_.*|REPLICATE_.*|CUDA_.*|NVIDIA_.*|NV_.*|PGET_.*|KUBERNETES_.*)$/;

export function readCogYaml(folder: string): CogYaml {
  const path = join(folder, "cog.yaml");
  if (!existsSync(path)) throw new ModelFault(`${folder} has no cog.yaml.`);
  const parsed = parseYaml(path, CogYamlSchema);
  if (parsed.run !== undefined && parsed.predict !== undefined)
    throw new ModelFault(`${path}: give run or predict, not both.`);
  if (parsed.run === undefined && parsed.predict === undefined) {
    throw new ModelFault(`${path}: run is missing (such as "predict.py:Runner").`);
  }
  for (const entry of parsed.environment) {
    const name = entry.split("=")[0] ?? "";
    if (REFUSED_VARIABLES.test(name)) throw new ModelFault(`${path}: environment must not set ${name}.`);
  }
  return parsed;
}

export function readCogwayYaml(folder: string): CogwayYaml {
  const path = join(folder, "cogway.yaml");
  return existsSync(path) ? parseYaml(path, CogwayYamlSchema) : {};
}

function parseYaml<T>(path: string, schema: z.ZodType<T>): T {
  const lines = new LineCounter();
  const document = parseDocument(readFileSync(path, "utf8"), { lineCounter: lines });
  const [error] = document.errors;
  if (error !== undefined) {
    const { line } = lines.linePos(error.pos[0]);
    throw new ModelFault(`${path} line ${line}: ${error.message.split("\n")[0] ?? "not YAML"}`);
  }
  const parsed = schema.safeParse(document.toJS() ?? {});
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = issue?.path ?? [];
  const node = document.getIn(place, true);
  const range =
    typeof node === "object" && node !== null && "range" in node && Array.isArray(node.range) ? node.range : null;
  const line = typeof range?.[0] === "number" ? ` line ${lines.linePos(range[0]).line}` : "";
  throw new ModelFault(`${path}${line}: ${place.join(".")}: ${issue?.message ?? "invalid"}`);
}
