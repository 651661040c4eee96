/** Bytes on a disk: how much a folder holds, how much is left, and whether an error says that nothing is. */
import { lstat, readdir, statfs } from "node:fs/promises";
import { join } from "node:path";

/** Of these many entries; a folder with more counts as what was seen so far, which is near enough for a bound. */
const ENTRIES_MAX = 500_000;

/** Bytes that the disk gives to a folder's files. What cannot be read, since it is being written or removed, counts nothing. */
export async function folderBytes(folder: string): Promise<number> {
  let bytes = 0;
  let seen = 0;
  const folders = [folder];
  for (let here = folders.pop(); here !== undefined && seen < ENTRIES_MAX; here = folders.pop()) {
    const entries = await readdir(here, { withFileTypes: true }).catch(() => []);
    seen += entries.length;
    for (const entry of entries) {
      const path = join(here, entry.name);
      if (entry.isDirectory()) folders.push(path);
      else bytes += (await lstat(path).catch(() => null))?.blocks ?? 0;
    }
  }
  return bytes * BLOCK_BYTES;
}
/** The unit of `blocks` in POSIX's stat, whatever the disk's own is. */
const BLOCK_BYTES = 512;

export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
}

/** The words that installers and compilers pass on from the system. */
export function saysDiskFull(text: string): boolean {
  return /No space left on device|Disk quota exceeded|\bENOSPC\b/i.test(text);
}

export function megabytes(bytes: number): string {
  return bytes >= 10 * 1024 ** 3 ? `${Math.round(bytes / 1024 ** 3)} GiB` : `${Math.ceil(bytes / 1024 ** 2)} MiB`;
}

/** One message, for whoever pushed and for whoever can do something about it. Which folder it was is in the origin's log. */
export const DISK_FULL =
  "The origin's disk is full. Its operator has to make room below COGWAY_DATA and COGWAY_CACHE; then push again.";
