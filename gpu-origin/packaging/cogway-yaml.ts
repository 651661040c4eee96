/** What Cog has no words for: how a model is shown, what it needs of its host, and what callers may rely on. The file may be missing. Pure over its text. */
import { z } from "zod";
import { NAME_PATTERN } from "../../schema/ids.ts";
import type { CogYaml } from "./cog-yaml.ts";
import { checkYaml, nearest, pathText, type YamlCheck } from "./yaml-faults.ts";

/** Of the largest hosts there are. */
const GPUS_MAX = 16;

const MEMBERS = {
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
  official: z.strictObject({ unit: z.string().min(1, "must not be empty").max(64), price_micros: z.int().min(0) }),
  memory_mb: z.int().min(1),
  /** what its trainer needs; as much as a prediction unless given */
  train_memory_mb: z.int().min(1),
  environment_mb: z.number().min(0),
  openai: z.unknown(),
  /** SKU of the hardware that it asks for: `cpu`, `gpu` for any, `gpu-h100`, or `gpu-h100-8x` for eight */
  hardware: z.string().regex(/^(cpu|gpu(-[a-z0-9]+)*)$/, 'must be "cpu", "gpu" or such as "gpu-h100" or "gpu-h100-8x"'),
  /** of one instance; 1 where cog.yaml says build.gpu */
  gpus: z.int().min(1).max(GPUS_MAX, `must be at most ${GPUS_MAX}`),
  /** it asks to open connections to public addresses while it runs */
  egress: z.boolean(),
  /** callers rely on its schema: a version that breaks it is refused unless forced */
  stable: z.boolean(),
};

export const COGWAY_MEMBERS = Object.keys(MEMBERS);

const CogwayYamlSchema = z.strictObject(MEMBERS).partial();

export type CogwayYaml = z.infer<typeof CogwayYamlSchema>;

/** Checked beside `cog`, where that could be read. */
export function checkCogwayYaml(text: string, cog: CogYaml | null): YamlCheck<CogwayYaml> {
  return checkYaml<CogwayYaml>("cogway.yaml", text, {
    schema: CogwayYamlSchema,
    example: "title: My model",
    unknownKey: (place, key) => {
      const known = place.length === 0 ? COGWAY_MEMBERS : ["unit", "price_micros"];
      const meant = nearest(key, known);
      const hint = meant === null ? `known here are ${known.join(", ")}.` : `did you mean ${meant}?`;
      return `${pathText([...place, key])} is unknown: ${hint}`;
    },
    rules: ({ hardware, gpus }, { fault }) => {
      const isGpu = cog?.build.gpu ?? null;
      const count = typeof hardware === "string" ? gpusOfSku(hardware) : null;
      if (isGpu === false && typeof hardware === "string" && hardware.startsWith("gpu"))
        fault(["hardware"], `hardware ${hardware} has GPUs: say build.gpu: true in cog.yaml, or take hardware: cpu.`);
      if (isGpu === true && hardware === "cpu")
        fault(["hardware"], "hardware cpu has no GPU, and cog.yaml says build.gpu: true.");
      if (isGpu === false && gpus !== undefined) fault(["gpus"], "gpus needs build.gpu: true in cog.yaml.", "key");
      if (typeof gpus === "number" && count !== null && count > 1 && gpus !== count)
        fault(
          ["gpus"],
          `gpus is ${gpus}, and hardware ${String(hardware)} is ${count} of them: take one of the two away.`,
        );
    },
  });
}

/** GPUs that one instance of a model gets to itself. */
export function gpusOf(cog: CogYaml, cogway: CogwayYaml): number {
  if (!cog.build.gpu) return 0;
  return cogway.gpus ?? (cogway.hardware === undefined ? 1 : gpusOfSku(cogway.hardware));
}

function gpusOfSku(sku: string): number {
  return Number(/-(\d+)x$/.exec(sku)?.[1] ?? 1);
}
