/**
 * Reads the manifest of a source as somebody pushed it, who may mean harm: what it says is checked before one byte of it is fetched. Pure.
 */
import {
  SOURCE_CHUNK_BYTES_MAX,
  SOURCE_CHUNK_TYPE,
  SOURCE_FILES_TYPE,
  SourceChunkAnnotations,
  SourceManifestSchema,
} from "../../schema/packages.ts";
import { SOURCE_FILES_MAX } from "./pack.ts";
import { isExcluded, type SourceFile } from "./source.ts";

const PATH_BYTES_MAX = 1024;
const NAME_BYTES_MAX = 255;
/** Tars hold paths and padding besides contents. */
const TAR_BYTES_MAX = SOURCE_CHUNK_BYTES_MAX;

export interface LargeFile extends SourceFile {
  chunks: { digest: string; offset: number; size_bytes: number }[];
}

export interface SourceLayers {
  /** tars of small files */
  tars: { digest: string; size_bytes: number }[];
  large: LargeFile[];
  /** of all layers */
  size_bytes: number;
}

/** The source cannot be taken; the message says why, for whoever pushed it. */
export class SourceFault extends Error {}

/** Throws a {@link SourceFault}. */
export function readSourceManifest(bytes: Buffer, bytesMax: number): SourceLayers {
  const parsed = SourceManifestSchema.safeParse(parseJson(bytes));
  if (!parsed.success)
    throw new SourceFault("The pushed manifest is not one of a source; push the folder with cogway push.");
  const { layers } = parsed.data;
  const size_bytes = layers.reduce((sum, layer) => sum + layer.size, 0);
  if (size_bytes > bytesMax) {
    throw new SourceFault(
      `The source has ${size_bytes} bytes; a build may use ${bytesMax}. Leave files out in .dockerignore.`,
    );
  }
  const tars: SourceLayers["tars"] = [];
  const large = new Map<string, LargeFile>();
  for (const { mediaType, digest, size, annotations } of layers) {
    if (mediaType === SOURCE_FILES_TYPE) {
      if (size > TAR_BYTES_MAX)
        throw new SourceFault(`A layer of files has ${size} bytes; at most ${TAR_BYTES_MAX} are taken.`);
      tars.push({ digest, size_bytes: size });
      continue;
    }
    if (mediaType !== SOURCE_CHUNK_TYPE)
      throw new SourceFault(`The source has a layer of the unknown type ${mediaType}.`);
    const chunk = SourceChunkAnnotations.safeParse(annotations ?? {});
    if (!chunk.success) throw new SourceFault("A chunk of the source does not say of which file it is.");
    const path = checkPath(chunk.data["run.cogway.file.path"]);
    const sha256 = chunk.data["run.cogway.file.sha256"];
    const whole = Number(chunk.data["run.cogway.file.size"]);
    const file = large.get(path) ?? { path, sha256, size_bytes: whole, chunks: [] };
    if (file.sha256 !== sha256 || file.size_bytes !== whole)
      throw new SourceFault(`The chunks of ${path} contradict each other.`);
    file.chunks.push({ digest, offset: Number(chunk.data["run.cogway.file.offset"]), size_bytes: size });
    large.set(path, file);
  }
  if (large.size > SOURCE_FILES_MAX) throw new SourceFault(`The source has more than ${SOURCE_FILES_MAX} files.`);
  for (const file of large.values()) checkChunks(file);
  return { tars, large: [...large.values()], size_bytes };
}

function checkChunks({ path, size_bytes, chunks }: LargeFile): void {
  let next = 0;
  for (const chunk of chunks.sort((a, b) => a.offset - b.offset)) {
    if (chunk.offset !== next || chunk.size_bytes === 0)
      throw new SourceFault(`The chunks of ${path} overlap or leave a gap.`);
    next += chunk.size_bytes;
  }
  if (next !== size_bytes)
    throw new SourceFault(`The chunks of ${path} have ${next} bytes, and the file has ${size_bytes}.`);
}

/** A path that stays in the folder and names a file that `cogway push` would have packed; throws for any other. */
export function checkPath(path: string): string {
  const shown = JSON.stringify(path.slice(0, 100));
  const names = path.split("/");
  if (path === "" || Buffer.byteLength(path) > PATH_BYTES_MAX)
    throw new SourceFault(`The path ${shown} is empty or too long.`);
  if (path.startsWith("/") || names.includes(".."))
    throw new SourceFault(`The path ${shown} leads out of the model's folder.`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (/[\x00-\x1f\x7f]/.test(path)) throw new SourceFault(`The path ${shown} has control characters.`);
  if (names.some((name) => name === "" || name === "." || Buffer.byteLength(name) > NAME_BYTES_MAX)) {
    throw new SourceFault(`The path ${shown} is not in its plain form.`);
  }
  const excluded = names.find(isExcluded);
  if (excluded !== undefined) throw new SourceFault(`The path ${shown} lies in ${excluded}, which no source has.`);
  return path;
}

/** No path twice, and none that is a folder of another; throws. */
export function checkTogether(paths: string[]): void {
  if (paths.length > SOURCE_FILES_MAX) throw new SourceFault(`The source has more than ${SOURCE_FILES_MAX} files.`);
  const files = new Set<string>();
  for (const path of paths) {
    if (files.has(path)) throw new SourceFault(`The source has ${JSON.stringify(path)} twice.`);
    files.add(path);
  }
  for (const path of paths) {
    for (let at = path.indexOf("/"); at !== -1; at = path.indexOf("/", at + 1)) {
      const folder = path.slice(0, at);
      if (files.has(folder))
        throw new SourceFault(`The source has ${JSON.stringify(folder)} as a file and as a folder.`);
    }
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    return null;
  }
}
