/**
 * The files of a model's folder, as they are pushed and prepared, and the version's id, which is made of their paths and contents alone. The same on the
 * author's machine and on an origin.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { pipeline } from "node:stream/promises";
import dockerIgnore from "@balena/dockerignore";

/** What tools leave behind, at any depth; `.cog` is made by the build. */
const EXCLUDED = [".cog", ".git", "__pycache__", ".venv", "node_modules", ".DS_Store"];

/** Whether a file or folder of this name is never part of a source. */
export function isExcluded(name: string): boolean {
  return EXCLUDED.includes(name);
}

export interface SourceFile {
  /** in the folder, with slashes */
  path: string;
  size_bytes: number;
  sha256: string;
}

/** Paths of all files of a model, sorted, with slashes. Links are followed only to files; what .dockerignore names is left out. */
export function listFiles(folder: string): string[] {
  const ignorePath = join(folder, ".dockerignore");
  const ignore = dockerIgnore().add(existsSync(ignorePath) ? readFileSync(ignorePath, "utf8") : "");
  const files: string[] = [];
  const walk = (dir: string): void => {
    for (const entry of readdirSync(dir, { withFileTypes: true })) {
      if (isExcluded(entry.name)) continue;
      const path = join(dir, entry.name);
      // A folder that is left out is walked all the same: a later line may take a file of it back.
      if (entry.isDirectory()) {
        walk(path);
        continue;
      }
      const name = relative(folder, path).split(sep).join("/");
      const isFile = entry.isFile() || (entry.isSymbolicLink() && existsSync(path) && statSync(path).isFile());
      if (isFile && !ignore.ignores(name)) files.push(name);
    }
  };
  walk(folder);
  return files.sort();
}

/** Sizes and digests of these files, one after the other; nothing is held whole. */
export async function readFiles(folder: string, paths: string[], signal?: AbortSignal): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  for (const path of paths) {
    signal?.throwIfAborted();
    const hash = createHash("sha256");
    let size_bytes = 0;
    const counted = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      for await (const chunk of chunks) {
        size_bytes += chunk.length;
        yield chunk;
      }
    };
    await pipeline(createReadStream(join(folder, path)), counted, hash);
    files.push({ path, size_bytes, sha256: hash.digest("hex") });
  }
  return files;
}

/** SHA-256 over sorted paths and contents: each path, its length and its content's digest. */
export function digestOf(files: Pick<SourceFile, "path" | "sha256">[]): string {
  const whole = createHash("sha256");
  for (const { path, sha256 } of files.toSorted((a, b) => (a.path < b.path ? -1 : 1))) {
    whole.update(`${Buffer.byteLength(path)}:${path}:${sha256}\n`);
  }
  return whole.digest("hex");
}
