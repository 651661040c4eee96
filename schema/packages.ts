/**
 * What a version is made of, and how it is built. A package lies in the registry (`/v2/`, repository = owner/name) as an OCI manifest with its blobs: a
 * container image that somebody pushed, or the source of a model as `cogway push` packs it. An origin that has not got a version takes it from there. Pure.
 */
import { z } from "zod";

/** `source`: an artifact that origins build. `image`: a container image with Cog's labels. */
export const PACKAGE_KINDS = ["source", "image"] as const;
export type PackageKind = (typeof PACKAGE_KINDS)[number];

const DigestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/);

export const PackageRefSchema = z.object({
  kind: z.enum(PACKAGE_KINDS),
  /** owner/name */
  repository: z.string(),
  /** digest of the source's or the image's manifest */
  manifest: DigestSchema,
});
export type PackageRef = z.infer<typeof PackageRefSchema>;

/**
 * `artifactType` of a source manifest. Its layers, in the order of the files that they hold:
 *  - SOURCE_FILES_TYPE: a tar of files below SOURCE_LARGE_FILE_BYTES, sorted by path, with fixed owners, times and modes, so that equal files give equal bytes;
 *  - SOURCE_CHUNK_TYPE: a range of one large file, described by the annotations of {@link SourceChunkAnnotations}.
 * `config` is the empty descriptor of OCI.
 */
export const SOURCE_ARTIFACT_TYPE = "application/vnd.cogway.source.v1";
export const SOURCE_FILES_TYPE = "application/vnd.cogway.source.files.v1.tar";
export const SOURCE_CHUNK_TYPE = "application/vnd.cogway.source.chunk.v1";
/** Files from this size on are blobs of their own: shared between versions, cached by origins, never part of an image. */
export const SOURCE_LARGE_FILE_BYTES = 1_048_576;
/** Below the smallest body bound of the platform (100 MB). */
export const SOURCE_CHUNK_BYTES_MAX = 96 * 1024 ** 2;

/** All are texts, as OCI wants annotations. */
export const SourceChunkAnnotations = z.object({
  /** of the file, in the model's folder, with slashes */
  "run.cogway.file.path": z.string().min(1).max(1024),
  "run.cogway.file.sha256": z.string().regex(/^[0-9a-f]{64}$/),
  "run.cogway.file.size": z.string().regex(/^[0-9]+$/),
  "run.cogway.file.offset": z.string().regex(/^[0-9]+$/),
});

const DescriptorSchema = z.object({
  mediaType: z.string(),
  digest: DigestSchema,
  size: z.number().int().min(0),
  annotations: z.record(z.string(), z.string()).optional(),
});
export type Descriptor = z.infer<typeof DescriptorSchema>;

export const SourceManifestSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.literal("application/vnd.oci.image.manifest.v1+json"),
  artifactType: z.literal(SOURCE_ARTIFACT_TYPE),
  config: DescriptorSchema,
  layers: z.array(DescriptorSchema).min(1).max(10_000),
});
export type SourceManifest = z.infer<typeof SourceManifestSchema>;

/** Stages of a build, in their order; a driver leaves out what it has no need of. */
export const BUILD_STAGES = ["fetch", "resolve", "environment", "schema", "image"] as const;
export type BuildStage = (typeof BUILD_STAGES)[number];

/** What a build makes: what the catalog shows of the version, and what an origin needs besides the package to make it start (`prepared`, origins' own). */
export const BuiltVersionSchema = z.object({
  /** SHA-256 over paths and contents of the source: two builds of one source give one version */
  id: z.string().regex(/^[0-9a-f]{64}$/),
  cog_version: z.string(),
  openapi_schema: z.record(z.string(), z.unknown()),
  slots: z.number().int().min(1),
  memory_bytes: z.number().int().min(0),
  train_memory_bytes: z.number().int().min(0).optional(),
  /** hardware SKU that it asks for, such as `cpu` or `gpu-h100` */
  hardware: z.string(),
  gpus: z.number().int().min(0),
  /** it asks to open connections to public addresses */
  egress: z.boolean(),
  idempotent: z.boolean(),
  prepared: z.record(z.string(), z.unknown()),
});
export type BuiltVersion = z.infer<typeof BuiltVersionSchema>;

/** What a folder says of its model; null is what it does not say. */
export const ModelDescriptionSchema = z.object({
  title: z.string().nullable(),
  description: z.string().nullable(),
  tags: z.array(z.string()),
  readme: z.string().nullable(),
  weights_license: z.string().nullable(),
  example_input: z.record(z.string(), z.unknown()).nullable(),
  /** it promises its callers not to break them; absent is what it does not say */
  stable: z.boolean().optional(),
});
export type ModelDescription = z.infer<typeof ModelDescriptionSchema>;

const eventBase = {
  i: z.number().int().min(0),
  /** since the build began, on the origin's monotonic clock */ t_ms: z.number().min(0),
};

export const BuildEventSchema = z.discriminatedUnion("type", [
  z.object({ ...eventBase, type: z.literal("stage"), stage: z.enum(BUILD_STAGES) }),
  z.object({ ...eventBase, type: z.literal("log"), data: z.string().max(65_536) }),
  z.object({
    ...eventBase,
    type: z.literal("finished"),
    status: z.enum(["succeeded", "failed", "canceled"]),
    /** one message that says what to change */
    error: z.string().optional(),
    /** stable, such as `build.requirements`, `build.schema`, `build.timeout`, `build.disk_full`, `build.origin_lost` */
    code: z.string().optional(),
    version: BuiltVersionSchema.optional(),
    description: ModelDescriptionSchema.optional(),
    /** advice that did not stop it */
    warnings: z.array(z.string()).optional(),
  }),
]);
export type BuildEvent = z.infer<typeof BuildEventSchema>;

/** What the edge keeps of a version for origins that have not got it (`GET /origin/v1/packages/…`). */
export const PackageSchema = z.object({ package: PackageRefSchema, version: BuiltVersionSchema });
export type Package = z.infer<typeof PackageSchema>;
