/**
 * An image that was pushed and says by Cog's labels that it is a model: what they say is read before its manifest is taken, so that one which cannot become a
 * version is refused with the reason; behind the manifest it becomes one.
 */
import { z } from "zod";
import { openBlob } from "../../durable-objects/blob-parts.ts";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import type { BuiltVersion } from "../../schema/packages.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { readModel } from "../storage/models.ts";
import { breakingRefusal, diffFrom, publishVersion } from "./publish-version.ts";

/** Of an image's config, which holds the labels: a schema and a list of packages among them. */
const CONFIG_BYTES_MAX = 8_388_608;
/** Images say nothing of the memory that they need but by {@link COGWAY_LABEL}. */
const MEMORY_DEFAULT_BYTES = 2_147_483_648;
const PREFIX = "run.cog.";
/** What cogway.yaml says of a source, as JSON: what Cog has no words for. */
const COGWAY_LABEL = "run.cogway.config";
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
const CogwayConfigSchema = z.looseObject({
  memory_mb: z.number().int().min(1).optional(),
  hardware: z.string().min(1).max(64).optional(),
  gpus: z.number().int().min(1).max(16).optional(),
  egress: z.boolean().optional(),
  idempotent: z.boolean().optional(),
});
const SchemaSchema = z.looseObject({
  components: z.looseObject({ schemas: z.looseObject({ Input: z.looseObject({}), Output: z.looseObject({}) }) }),
});

export interface PushedImage {
  /** owner/name */
  repository: string;
  /** digest of the image's manifest */
  manifest: string;
  version: BuiltVersion;
}

/**
 * Null for an image without Cog's labels, which is only kept, and for a member of an index that is for other machines. Throws `package.invalid` for one whose
 * labels are not right, and `version.breaking` for one that breaks callers of a stable model. `isTagged`: it is what was pushed, and no member of that.
 */
export async function readImage(
  edge: Edge,
  repository: string,
  manifest: string,
  configDigest: string,
  isTagged: boolean,
): Promise<PushedImage | null> {
  const held = await repositoryStub(edge.env, repository).blob(configDigest);
  if (held === null || held.size_bytes > CONFIG_BYTES_MAX) return null;
  const stored = await openBlob(edge.env.FILES, held);
  // Configs of artifacts are anything.
  const image = ImageConfigSchema.safeParse(parseJson(await new Response(stored).text()));
  const labels = (image.success ? image.data.config?.Labels : null) ?? {};
  const label = (name: string): string | undefined => labels[`${PREFIX}${name}`] ?? labels[`${OLD_PREFIX}${name}`];
  const configText = label("config");
  if (!image.success || configText === undefined) return null;
  if (!manifest.startsWith("sha256:")) throw invalid("Name its manifest by a SHA-256 digest.");
  const { os = "linux", architecture = "amd64" } = image.data;
  if (os !== "linux" || architecture !== "amd64") {
    if (!isTagged) return null;
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
  const cogway = CogwayConfigSchema.safeParse(parseJson(labels[COGWAY_LABEL] ?? "{}"));
  if (!cogway.success) throw invalid(`Its label ${COGWAY_LABEL} is not what cogway.yaml says, as JSON.`);
  const version = builtVersion(
    { repository, manifest, cog_version: label("version") ?? label("cog_version") ?? "unknown" },
    config.data,
    cogway.data,
    schema.data,
  );
  await requireUnbroken(edge, repository, version);
  return { repository, manifest, version };
}

function builtVersion(
  image: { repository: string; manifest: string; cog_version: string },
  config: z.infer<typeof CogConfigSchema>,
  cogway: z.infer<typeof CogwayConfigSchema>,
  openapi_schema: z.infer<typeof SchemaSchema>,
): BuiltVersion {
  const { repository, manifest, cog_version } = image;
  const isGpu = config.build?.gpu === true;
  const runs = {
    // The content of an image is all that its manifest names.
    id: manifest.slice(manifest.indexOf(":") + 1),
    slots: config.concurrency?.max ?? 1,
    memory_bytes: cogway.memory_mb === undefined ? MEMORY_DEFAULT_BYTES : cogway.memory_mb * 1024 ** 2,
    hardware: cogway.hardware ?? (isGpu ? "gpu" : "cpu"),
    gpus: cogway.gpus ?? (isGpu ? Number(/-(\d+)x$/.exec(cogway.hardware ?? "")?.[1] ?? 1) : 0),
    egress: cogway.egress ?? false,
    idempotent: cogway.idempotent ?? false,
  };
  const { Output } = openapi_schema.components.schemas;
  const items = Output["items"];
  const isFileList = Output["type"] === "array" && Output["x-cog-array-type"] !== "iterator" && hasFormat(items, "uri");
  // What an origin makes of a source by building it, an image brings along.
  const prepared = {
    ...runs,
    name: repository.split("/")[1],
    environment: { python_version: null, requirements: "", run: [] },
    ref: null,
    train_ref: config.train ?? null,
    token_metric: null,
    output_is_file_list: isFileList,
    env: {},
    package: { kind: "image", repository, manifest },
    schema: openapi_schema,
  };
  return { ...runs, cog_version, openapi_schema, prepared };
}

function hasFormat(schema: unknown, format: string): boolean {
  return typeof schema === "object" && schema !== null && "format" in schema && schema.format === format;
}

/** Before the manifest is taken, so that a refused image moves no tag. */
async function requireUnbroken(edge: Edge, repository: string, version: BuiltVersion): Promise<void> {
  const [owner = "", name = ""] = repository.split("/");
  const known = await readModel(edge.env.DB, owner, name);
  const refusal = known === null ? null : breakingRefusal(known, diffFrom(known.latest, version));
  if (refusal !== null) throw breaking(refusal);
}

function breaking(refusal: string): AppError {
  const detail = `The image was not taken. ${refusal} Or take the promise away first (PATCH the model: stable false).`;
  return new AppError("version.breaking", detail);
}

/** The image's manifest is stored: it becomes a version. Throws a problem that tells whoever pushed it why it cannot. */
export async function imagePushed(
  edge: Edge,
  caller: Caller,
  { repository, manifest, version }: PushedImage,
): Promise<void> {
  const [owner = "", name = ""] = repository.split("/");
  const made = await publishVersion(edge, {
    ...{ owner, name, version, description: null, build_id: null, account_id: caller.account_id, is_forced: false },
    package: { kind: "image", repository, manifest },
  });
  if (made.kind === "published") return;
  throw made.code === "version.breaking" ? breaking(made.detail) : new AppError("package.invalid", made.detail);
}

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
