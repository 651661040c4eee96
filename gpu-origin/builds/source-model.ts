/** A source as a model: what its two YAML files and its types say of the version that it makes, and of how it is shown. Reads the source's small files. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { BuiltVersion, ModelDescription, Package } from "../../schema/packages.ts";
import { COG_VERSION } from "../environments.ts";
import type { readModel } from "../packaging/check-model.ts";
import { type CogYaml, refOf } from "../packaging/cog-yaml.ts";
import { type CogwayYaml, gpusOf } from "../packaging/cogway-yaml.ts";
import { type EnvironmentSpec, type PreparedVersion, PreparedVersionSchema } from "../prepared-version.ts";
import type { SourceFolder } from "./builder.ts";

const MEMORY_DEFAULT_MB = 512;
const README_BYTES_MAX = 262_144;
const EXAMPLE_BYTES_MAX = 262_144;

export type SourceModel = Pick<ReturnType<typeof readModel>, "cog" | "cogway">;

/** What make_schema.py tells besides the schema. */
export const SchemaFactsSchema = z.object({
  schema: z.record(z.string(), z.unknown()),
  concurrency: z.number().int().min(1).nullable(),
  output_is_file_list: z.boolean(),
  warnings: z.array(z.string()).default([]),
});
export type SchemaFacts = z.infer<typeof SchemaFactsSchema>;

export function preparedOf(
  source: SourceFolder,
  { cog, cogway }: SourceModel,
  facts: SchemaFacts,
  environment: EnvironmentSpec,
): PreparedVersion {
  return {
    id: source.id,
    name: source.name,
    environment,
    ref: refOf(cog),
    train_ref: cog.train ?? null,
    slots: cog.concurrency.max ?? facts.concurrency ?? 1,
    memory_bytes: (cogway.memory_mb ?? MEMORY_DEFAULT_MB) * 1024 ** 2,
    train_memory_bytes: cogway.train_memory_mb === undefined ? null : cogway.train_memory_mb * 1024 ** 2,
    idempotent: cogway.idempotent ?? false,
    token_metric: cogway.token_metric ?? null,
    output_is_file_list: facts.output_is_file_list,
    env: environmentOf(cog),
    hardware: hardwareOf(cog, cogway),
    gpus: gpusOf(cog, cogway),
    egress: cogway.egress ?? false,
    weights: [],
    package: null,
    schema: facts.schema,
  };
}

/** `environment` of cog.yaml. */
export function environmentOf(cog: CogYaml): Record<string, string> {
  return Object.fromEntries(
    cog.environment.map((entry) => {
      const at = entry.indexOf("=");
      return [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
}

function hardwareOf(cog: CogYaml, cogway: CogwayYaml): string {
  const gpus = gpusOf(cog, cogway);
  if (cogway.hardware !== undefined) return cogway.hardware;
  return gpus === 0 ? "cpu" : gpus === 1 ? "gpu" : `gpu-${gpus}x`;
}

/** What the platform keeps of a version: the catalog's part, and what makes it start on any origin. */
export function builtOf(version: PreparedVersion): BuiltVersion {
  const { id, schema, slots, memory_bytes, train_memory_bytes, hardware, gpus, egress, idempotent } = version;
  return {
    id,
    cog_version: COG_VERSION,
    openapi_schema: schema,
    slots,
    memory_bytes,
    ...(train_memory_bytes === null ? {} : { train_memory_bytes }),
    hardware,
    gpus,
    egress,
    idempotent,
    prepared: preparedPart(version),
  };
}

/** What the catalog's part does not hold. */
function preparedPart(version: PreparedVersion): Record<string, unknown> {
  const { environment, ref, train_ref, token_metric, output_is_file_list, env, weights } = version;
  return { environment, ref, train_ref, token_metric, output_is_file_list, env, weights };
}

/** The other way round: a version that was built elsewhere, or an image's; null where what was kept is not of this release. */
export function preparedFrom({ package: from, version }: Package): PreparedVersion | null {
  const { openapi_schema, train_memory_bytes, prepared, cog_version: _, ...shared } = version;
  // An image has its environment in it, and knows its own predictor.
  const image = {
    environment: { python_version: null, requirements: "", run: [] },
    ref: null,
    token_metric: null,
    output_is_file_list: isFileList(openapi_schema),
    env: {},
  };
  const parsed = PreparedVersionSchema.safeParse({
    ...(from.kind === "image" ? image : {}),
    ...prepared,
    ...shared,
    name: from.repository.split("/").at(-1),
    train_memory_bytes: train_memory_bytes ?? null,
    package: from,
    schema: openapi_schema,
  });
  return parsed.success ? parsed.data : null;
}

const OutputSchema = z.object({
  components: z.object({
    schemas: z.object({
      Output: z.object({
        type: z.literal("array"),
        items: z.object({ format: z.literal("uri") }),
        "x-cog-array-type": z.undefined().optional(),
      }),
    }),
  }),
});

function isFileList(schema: Record<string, unknown>): boolean {
  return OutputSchema.safeParse(schema).success;
}

/** What a folder says of how it is shown; null is what it does not say. */
export function describe(folder: string, cogway: CogwayYaml): ModelDescription {
  return {
    title: cogway.title ?? null,
    description: cogway.description ?? null,
    tags: cogway.tags ?? [],
    readme: readText(join(folder, "README.md"), Number.MAX_SAFE_INTEGER)?.slice(0, README_BYTES_MAX) ?? null,
    weights_license: cogway.weights_license ?? null,
    example_input: exampleInput(folder),
    ...(cogway.stable === undefined ? {} : { stable: cogway.stable }),
  };
}

function exampleInput(folder: string): Record<string, unknown> | null {
  const text = readText(join(folder, "example.json"), EXAMPLE_BYTES_MAX);
  if (text === null) return null;
  try {
    return z.record(z.string(), z.unknown()).safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

function readText(path: string, bytesMax: number): string | null {
  return existsSync(path) && statSync(path).isFile() && statSync(path).size <= bytesMax
    ? readFileSync(path, "utf8")
    : null;
}
