/**
 * The archive of a backup: a gzipped tar of `backup.json` (what it is), `data/…` (the files) and at last `digests.json` (SHA-256 of each). Written and read
 * as streams, so its size does not matter; nothing of it counts before its digests were compared.
 */
import { createHash } from "node:crypto";
import { chmodSync, createReadStream, createWriteStream, mkdirSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, normalize } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { extract, pack } from "tar-stream";
import { z } from "zod";
import { SetupFault } from "./settings.ts";

/** Another form of archive gets another number. */
const FORMAT = 1;
/** Databases become a fifth of their size already; files of models hardly at all. */
const GZIP_LEVEL = 1;
/** Of the two documents. A digest takes some 150 bytes, so this is for millions of files. */
const DOCUMENT_BYTES_MAX = 1024 ** 3;
const MODE_MASK = 0o777;

const AboutSchema = z.object({ format: z.literal(FORMAT), release: z.string(), made_at: z.string() });
const DigestsSchema = z.array(z.object({ path: z.string(), size_bytes: z.number(), sha256: z.string() }));

export type About = Omit<z.infer<typeof AboutSchema>, "format">;
type Digests = z.infer<typeof DigestsSchema>;

export interface Written {
  files: number;
  bytes: number;
}

/** Writes an archive for its owner's eyes only. `paths` are those of files below `folder`. */
export async function writeArchive(
  path: string,
  about: About,
  folder: string,
  paths: readonly string[],
  onFile: (count: number) => void,
): Promise<Written> {
  const tar = pack();
  const digests: Digests = [];
  const fill = async (): Promise<void> => {
    tar.entry({ name: "backup.json" }, JSON.stringify({ format: FORMAT, ...about }));
    for (const each of paths) {
      const { size, mode } = statSync(join(folder, each));
      digests.push({ path: each, size_bytes: size, sha256: await add(each, size, mode & MODE_MASK) });
      onFile(digests.length);
    }
    tar.entry({ name: "digests.json" }, JSON.stringify(digests));
    tar.finalize();
  };
  const add = async (each: string, size: number, mode: number): Promise<string> => {
    const hash = createHash("sha256");
    const entry = tar.entry({ name: `data/${each}`, size, mode });
    // Of a file that grows meanwhile, what it was.
    const source = size === 0 ? Readable.from([]) : createReadStream(join(folder, each), { start: 0, end: size - 1 });
    const digest = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        hash.update(chunk);
        done(null, chunk);
      },
    });
    await pipeline(source, digest, entry);
    return hash.digest("hex");
  };
  const written = pipeline(tar, createGzip({ level: GZIP_LEVEL }), createWriteStream(path, { mode: 0o600 }));
  await Promise.all([fill().catch((error: unknown) => tar.destroy(asError(error))), written]);
  return { files: digests.length, bytes: digests.reduce((sum, { size_bytes }) => sum + size_bytes, 0) };
}

/**
 * Reads an archive to its end and compares every digest; with `target` its files are written below it, with the modes that they had. Rejects with a
 * SetupFault where anything is not as it was written.
 */
export async function readArchive(
  path: string,
  target: string | null,
  onFile: (count: number) => void,
): Promise<{ about: About } & Written> {
  const found = new Map<string, { size_bytes: number; sha256: string }>();
  let about: About | null = null;
  let digests: Digests | null = null;
  const tar = extract();
  const take = async (): Promise<void> => {
    for await (const entry of tar) {
      const { name, mode, type } = entry.header;
      if (name === "backup.json") about = parse(AboutSchema, await textOf(entry), path);
      else if (name === "digests.json") digests = parse(DigestsSchema, await textOf(entry), path);
      else {
        const each = innerPath(name);
        if (type !== "file" || each === null || about === null)
          throw new SetupFault(`${path} is no backup of Cogway: ${name}`);
        found.set(each, await takeFile(entry, target === null ? null : join(target, each), mode ?? 0o600));
        onFile(found.size);
      }
    }
  };
  try {
    await Promise.all([pipeline(createReadStream(path), createGunzip(), tar), take()]);
  } catch (error) {
    if (error instanceof SetupFault) throw error;
    throw new SetupFault(`${path} cannot be read as a backup: ${asError(error).message}`);
  }
  return { about: checked(path, about, digests, found), ...sumOf(found) };
}

async function takeFile(
  entry: AsyncIterable<unknown>,
  to: string | null,
  mode: number,
): Promise<{ size_bytes: number; sha256: string }> {
  const hash = createHash("sha256");
  let size_bytes = 0;
  const measured = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      size_bytes += chunk.length;
      done(null, chunk);
    },
  });
  if (to === null) {
    measured.resume();
    await pipeline(entry, measured);
  } else {
    mkdirSync(dirname(to), { recursive: true, mode: 0o700 });
    await pipeline(entry, measured, createWriteStream(to, { mode: 0o600 }));
    chmodSync(to, mode & MODE_MASK);
  }
  return { size_bytes, sha256: hash.digest("hex") };
}

function checked(
  path: string,
  about: About | null,
  digests: Digests | null,
  found: Map<string, { size_bytes: number; sha256: string }>,
): About {
  if (about === null || digests === null) throw new SetupFault(`${path} is cut off: its digests are missing.`);
  for (const { path: each, size_bytes, sha256 } of digests) {
    const own = found.get(each);
    if (own?.sha256 !== sha256 || own.size_bytes !== size_bytes) {
      throw new SetupFault(`${path} is damaged: ${each} is not what was written.`);
    }
  }
  if (found.size !== digests.length) throw new SetupFault(`${path} is damaged: it has files without a digest.`);
  return about;
}

function sumOf(found: Map<string, { size_bytes: number }>): Written {
  return { files: found.size, bytes: [...found.values()].reduce((sum, { size_bytes }) => sum + size_bytes, 0) };
}

/** The path below the data folder; null for one that leads elsewhere. */
function innerPath(name: string): string | null {
  if (!name.startsWith("data/")) return null;
  const path = normalize(name.slice("data/".length));
  return path === "." || path.startsWith("..") || isAbsolute(path) ? null : path;
}

function parse<T>(schema: z.ZodType<T>, text: string, path: string): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch {
    throw new SetupFault(`${path} is no backup that this release of Cogway reads.`);
  }
}

async function textOf(entry: AsyncIterable<unknown>): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of entry as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > DOCUMENT_BYTES_MAX) throw new Error("a document in it is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
