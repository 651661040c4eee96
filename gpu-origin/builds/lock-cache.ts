/**
 * Locks of requirements that were resolved before, by the digest of all that they came from. A recent one is taken as it is, so that the next start asks no
 * package registry; an older one stands in where none can be reached.
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Who builds again after that gets newer releases of what is not pinned. */
const FRESH_MS = 86_400_000;
/** Requirements that name files, whose content the digest does not know. */
const LOCAL_FILE = /^(\.{0,2}\/|file:)|@\s*file:|\.(whl|zip|tar\.gz)$/m;

export interface KnownLock {
  text: string;
  isFresh: boolean;
}

export class LockCache {
  readonly #root: string;

  constructor(cacheDir: string) {
    this.#root = join(cacheDir, "locks");
  }

  /** Null for requirements that cannot be known by their text. */
  key(requirements: string, ...others: string[]): string | null {
    if (LOCAL_FILE.test(requirements)) return null;
    return createHash("sha256")
      .update(JSON.stringify([requirements, ...others]))
      .digest("hex");
  }

  get(key: string | null): KnownLock | null {
    if (key === null) return null;
    try {
      const path = join(this.#root, key);
      return { text: readFileSync(path, "utf8"), isFresh: Date.now() - statSync(path).mtimeMs < FRESH_MS };
    } catch {
      return null;
    }
  }

  save(key: string | null, text: string): void {
    if (key === null) return;
    mkdirSync(this.#root, { recursive: true });
    const temporary = join(this.#root, `${key}.${randomBytes(4).toString("hex")}`);
    writeFileSync(temporary, text);
    renameSync(temporary, join(this.#root, key));
  }
}
