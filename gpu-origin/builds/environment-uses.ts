/**
 * Which environments of the cache are used, and by whom: a marker's time says when an environment was used last. Origins may share the cache, so one that is
 * held has its marker touched from time to time, and one whose marker is young is left alone.
 */
import { existsSync, readdirSync, statSync, utimesSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";

/** Beyond it, those that were used longest ago are removed; each can be made again from its lock. */
export const ENVIRONMENTS_MAX = 200;
/** Used so lately, it may be another origin's. */
const YOUNG_MS = 24 * 3_600_000;
const TOUCH_MS = 3_600_000;

export class EnvironmentUses {
  readonly #root: string;
  readonly #marker: string;
  readonly #max: number;
  readonly #holders = new Map<string, number>();
  #timer: NodeJS.Timeout | null = null;

  constructor(root: string, marker: string, max = ENVIRONMENTS_MAX) {
    this.#root = root;
    this.#marker = marker;
    this.#max = max;
  }

  /** Keeps an environment until it is called back, once. */
  hold(key: string): () => void {
    this.touch(key);
    this.#holders.set(key, (this.#holders.get(key) ?? 0) + 1);
    this.#timer ??= setInterval(() => {
      for (const held of this.#holders.keys()) this.touch(held);
    }, TOUCH_MS).unref();
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      const left = (this.#holders.get(key) ?? 1) - 1;
      if (left > 0) this.#holders.set(key, left);
      else this.#holders.delete(key);
      if (this.#holders.size > 0 || this.#timer === null) return;
      clearInterval(this.#timer);
      this.#timer = null;
    };
  }

  touch(key: string): void {
    const path = join(this.#root, key, this.#marker);
    if (existsSync(path)) utimesSync(path, new Date(), new Date());
  }

  /** Removes what is too much. After one was made. */
  async sweep(): Promise<void> {
    const whole = readdirSync(this.#root)
      .map((key) => ({ key, path: join(this.#root, key, this.#marker) }))
      .filter(({ path }) => existsSync(path))
      .map(({ key, path }) => ({ key, path, used_at: statSync(path).mtimeMs }))
      .sort((a, b) => a.used_at - b.used_at);
    const idle = whole.filter(({ key, used_at }) => !this.#holders.has(key) && Date.now() - used_at > YOUNG_MS);
    for (const { key, path } of idle.slice(0, Math.max(0, whole.length - this.#max))) {
      // Without its marker first: nobody takes one that is going for a whole one.
      await rm(path, { force: true });
      await rm(join(this.#root, key), { recursive: true, force: true });
    }
  }
}
