/** Looks at files of a model's folder, bounded. */
import { closeSync, existsSync, openSync, readSync, statSync } from "node:fs";

/** Of a path as cog.yaml writes it: no absolute one, and no way up. */
export function isInFolder(path: string): boolean {
  return path !== "" && !path.startsWith("/") && !path.includes("\0") && !path.split("/").includes("..");
}

export function isFile(path: string): boolean {
  return existsSync(path) && statSync(path).isFile();
}

/** The first bytes of a file as text, or null where there is none. */
export function readBounded(path: string, bytesMax: number): string | null {
  if (!isFile(path)) return null;
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(Math.min(statSync(path).size, bytesMax));
    return bytes.toString("utf8", 0, readSync(file, bytes, 0, bytes.length, 0));
  } finally {
    closeSync(file);
  }
}
