/**
 * An image that was pushed and says by Cog's labels that it is a model: what they say is read before its manifest is taken, so that one which cannot become a
 * version is refused with the reason; behind the manifest it becomes one.
 */
import { z } from "zod";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";

/** Of an image's config, which holds the labels: a schema and a list of packages among them. */
const CONFIG_BYTES_MAX = 8_388_608;
const PREFIX = "run.cog.";
/** Of images of Cogs before 0.4. */
const OLD_PREFIX = "org.cogmodel.";

const ImageConfigSchema = z.looseObject({
  architecture: z.string().optional(),
  os: z.string().optional(),
  config: z.looseObject({ Labels: z.record(z.string(), z.string()).nullish() }).nullish(),
});
const CogConfigSchema = z.looseObject({
  run: z.string().optional(),
  predict: z.string().optional(),
  train: z.string().optional(),
  environment: z.array(z.string()).nullish(),
  build: z.looseObject({ gpu: z.boolean().nullish() }).nullish(),
  concurrency: z.looseObject({ max: z.number().int().min(1).optional() }).nullish(),
});
const SchemaSchema = z.looseObject({
  components: z.looseObject({ schemas: z.looseObject({ Input: z.looseObject({}), Output: z.looseObject({}) }) }),
});

export interface PushedImage {
  /** owner/name */
  repository: string;
  /** digest of the image's manifest */
  manifest: string;
  cog_version: string;
  /** cog.yaml as Cog completed it */
  config: z.infer<typeof CogConfigSchema>;
  openapi_schema: Record<string, unknown>;
}

/** Null for an image without Cog's labels, which is only kept. Throws `package.invalid` for one whose labels are not right. */
export async function readImage(
  edge: Edge,
  repository: string,
  manifest: string,
  configDigest: string,
): Promise<PushedImage | null> {
  const held = await repositoryStub(edge.env, repository).blob(configDigest);
  if (held === null || held.size_bytes > CONFIG_BYTES_MAX) return null;
  const stored = await edge.env.FILES.get(held.key);
  // Configs of artifacts are anything.
  const image = ImageConfigSchema.safeParse(parseJson((await stored?.text()) ?? ""));
  const labels = (image.success ? image.data.config?.Labels : null) ?? {};
  const label = (name: string): string | undefined => labels[`${PREFIX}${name}`] ?? labels[`${OLD_PREFIX}${name}`];
  const configText = label("config");
  if (!image.success || configText === undefined) return null;
  const { os = "linux", architecture = "amd64" } = image.data;
  if (os !== "linux" || architecture !== "amd64") {
    throw invalid(
      `It is built for ${os}/${architecture}. Build it for linux/amd64: docker build --platform linux/amd64.`,
    );
  }
  const config = CogConfigSchema.safeParse(parseJson(configText));
  if (!config.success) throw invalid(`Its label ${PREFIX}config is not a cog.yaml as JSON. Build it with Cog.`);
  const schema = SchemaSchema.safeParse(parseJson(label("openapi_schema") ?? ""));
  if (!schema.success) {
    throw invalid(`Its label ${PREFIX}openapi_schema is not the JSON of a model's schema. Build it with Cog.`);
  }
  const cog_version = label("version") ?? label("cog_version") ?? "unknown";
  return { repository, manifest, cog_version, config: config.data, openapi_schema: schema.data };
}

/** The image's manifest is stored: it becomes a version. Throws a problem that tells whoever pushed it why it cannot. */
export async function imagePushed(_edge: Edge, _caller: Caller, _image: PushedImage): Promise<void> {}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function invalid(detail: string): AppError {
  return new AppError("package.invalid", `The image is stored nowhere and is no version. ${detail}`);
}
