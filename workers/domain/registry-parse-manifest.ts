/** Manifests of images, artifacts and indexes: what they name, and whether they can be taken. They are stored byte for byte; nothing is written anew. Pure. */
import { z } from "zod";
import { RegistryError } from "./registry-errors.ts";
import { isDigest } from "./registry-names.ts";

/** What the specification asks a registry to take at least. */
export const MANIFEST_BYTES_MAX = 4_194_304;
/** As many layers as a source may have (schema/packages.ts), a config, and room to spare. */
const DESCRIPTORS_MAX = 10_100;
/** Shown by `referrers`, and so kept in a row: far from the 2 MB that one may hold. */
const ANNOTATIONS_BYTES_MAX = 65_536;

export const OCI_INDEX = "application/vnd.oci.image.index.v1+json";
const IMAGE_TYPES = [
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEX_TYPES = [OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];

const DescriptorSchema = z.object({
  mediaType: z.string().max(255),
  digest: z.string().refine(isDigest, "is no sha256 or sha512 digest"),
  size: z.number().int().min(0),
});
const common = {
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  artifactType: z.string().max(255).optional(),
  subject: DescriptorSchema.optional(),
  annotations: z.record(z.string(), z.string()).optional(),
};
const ImageSchema = z.object({
  ...common,
  config: DescriptorSchema,
  layers: z.array(DescriptorSchema.extend({ urls: z.array(z.string()).optional() })).max(DESCRIPTORS_MAX),
});
const IndexSchema = z.object({ ...common, manifests: z.array(DescriptorSchema).max(DESCRIPTORS_MAX) });

export interface ParsedManifest {
  media_type: string;
  /** the config of an image, or of an artifact; null for an index */
  config: { mediaType: string; digest: string; size: number } | null;
  /** blobs that must be here */
  blobs: string[];
  /** layers that may not be distributed, or lie elsewhere */
  foreign_blobs: string[];
  /** of an index */
  manifests: string[];
  subject: string | null;
  artifact_type: string | null;
  annotations: Record<string, string> | null;
}

/** Throws MANIFEST_INVALID. `contentType` is that of the request, which stands for the type where the manifest does not say one. */
export function parseManifest(text: string, contentType: string | undefined): ParsedManifest {
  const json = parseJson(text);
  const said = (contentType ?? "").split(";")[0]?.trim() ?? "";
  const own = json["mediaType"];
  const media_type = said === "" || said === "application/json" ? String(own ?? "") : said;
  if (own !== undefined && own !== media_type) {
    throw invalid(`The manifest's mediaType is ${String(own).slice(0, 100)}, and the request's type is ${media_type}.`);
  }
  if (INDEX_TYPES.includes(media_type)) {
    const index = check(IndexSchema, json);
    const manifests = unique(index.manifests);
    return { media_type, config: null, blobs: [], foreign_blobs: [], manifests, ...referrer(index, null) };
  }
  if (!IMAGE_TYPES.includes(media_type)) {
    const types = [...IMAGE_TYPES, ...INDEX_TYPES].join(", ");
    throw invalid(`Manifests of the type ${media_type.slice(0, 100) || "(none)"} are not taken. These are: ${types}.`);
  }
  const image = check(ImageSchema, json);
  const { config } = image;
  const isForeign = (layer: (typeof image.layers)[number]) =>
    /nondistributable|foreign/.test(layer.mediaType) || (layer.urls ?? []).length > 0;
  return {
    media_type,
    config,
    blobs: unique([config, ...image.layers.filter((layer) => !isForeign(layer))]),
    foreign_blobs: unique(image.layers.filter(isForeign)),
    manifests: [],
    ...referrer(image, config.mediaType),
  };
}

function parseJson(text: string): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(text);
    if (typeof json === "object" && json !== null && !Array.isArray(json)) return json as Record<string, unknown>;
  } catch {
    // Said below.
  }
  throw invalid("The manifest is no JSON object.");
}

function check<T>(schema: z.ZodType<T>, json: unknown): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw invalid(`The manifest's ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "is wrong"}.`);
}

function referrer(
  { subject, artifactType, annotations }: z.infer<typeof IndexSchema> | z.infer<typeof ImageSchema>,
  configType: string | null,
): Pick<ParsedManifest, "subject" | "artifact_type" | "annotations"> {
  if (subject === undefined) return { subject: null, artifact_type: null, annotations: null };
  if (annotations !== undefined && JSON.stringify(annotations).length > ANNOTATIONS_BYTES_MAX) {
    throw invalid(`Annotations of a manifest with a subject may have ${ANNOTATIONS_BYTES_MAX} bytes.`);
  }
  return {
    subject: subject.digest,
    artifact_type: artifactType ?? configType,
    annotations: annotations ?? null,
  };
}

function unique(descriptors: { digest: string }[]): string[] {
  return [...new Set(descriptors.map(({ digest }) => digest))];
}

function invalid(message: string): RegistryError {
  return new RegistryError("MANIFEST_INVALID", message);
}
