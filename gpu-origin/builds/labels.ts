/** The labels that make an image a Cog model (`run.cog.*`), written and read; and one of ours, by which an origin knows its own images again. Pure. */
import { z } from "zod";

export const VERSION_LABEL = "run.cogway.version";
/** JSON of the prepared version, so that an image that is there says all that its build found out. */
export const PREPARED_LABEL = "run.cogway.prepared";
const PREFIX = "run.cog.";
/** Of images of Cogs before 0.4. */
const OLD_PREFIX = "org.cogmodel.";

const ObjectSchema = z.record(z.string(), z.unknown());
const ConfigSchema = z.looseObject({
  run: z.string().optional(),
  predict: z.string().optional(),
  train: z.string().optional(),
  environment: z.array(z.string()).nullish(),
  concurrency: z.looseObject({ max: z.number().int().min(1).optional() }).nullish(),
});

export interface CogLabels {
  cog_version: string;
  /** cog.yaml as it was read */
  config: z.infer<typeof ConfigSchema>;
  openapi_schema: Record<string, unknown>;
}

export function writeCogLabels(labels: {
  cog_version: string;
  config: unknown;
  openapi_schema: Record<string, unknown>;
  /** one package a line */
  pip_freeze: string;
}): Record<string, string> {
  return {
    [`${PREFIX}version`]: labels.cog_version,
    [`${PREFIX}config`]: JSON.stringify(labels.config),
    [`${PREFIX}openapi_schema`]: JSON.stringify(labels.openapi_schema),
    [`${PREFIX}pip_freeze`]: labels.pip_freeze,
  };
}

/** Or one line that says what is missing. */
export function readCogLabels(labels: Record<string, string>): CogLabels | { fault: string } {
  const label = (name: string): string | undefined => labels[`${PREFIX}${name}`] ?? labels[`${OLD_PREFIX}${name}`];
  const configText = label("config");
  if (configText === undefined) {
    return {
      fault: `The image has no label ${PREFIX}config, so it is no Cog model; build it with \`cog build\` or push the source.`,
    };
  }
  const config = ConfigSchema.safeParse(parseJson(configText));
  if (!config.success) return { fault: `The image's label ${PREFIX}config is not a cog.yaml in JSON.` };
  const schema = ObjectSchema.safeParse(parseJson(label("openapi_schema") ?? ""));
  if (!schema.success) return { fault: `The image's label ${PREFIX}openapi_schema is not a schema in JSON.` };
  return {
    cog_version: label("version") ?? label("cog_version") ?? "unknown",
    config: config.data,
    openapi_schema: schema.data,
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
