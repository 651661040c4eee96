/**
 * Items ordered by the room that they have: devices first, then memory. The tightest one with enough of both is found by a search, however many there are;
 * a change costs as much. Two items of equal room keep the order in which they came.
 */

/** One number of devices: the different amounts of memory, ascending, and who has each. */
interface Level<T> {
  sizes: number[];
  items: Map<number, Set<T>>;
}

export class RoomIndex<T> {
  /** by number of devices; most places are empty where hosts have none */
  readonly #levels: (Level<T> | undefined)[] = [];

  add(gpus: number, memory: number, item: T): void {
    const level = this.#levels[gpus] ?? { sizes: [], items: new Map() };
    this.#levels[gpus] = level;
    let items = level.items.get(memory);
    if (items === undefined) {
      items = new Set();
      level.items.set(memory, items);
      level.sizes.splice(firstFrom(level.sizes, memory), 0, memory);
    }
    items.add(item);
  }

  remove(gpus: number, memory: number, item: T): void {
    const level = this.#levels[gpus];
    const items = level?.items.get(memory);
    if (level === undefined || items === undefined) return;
    items.delete(item);
    if (items.size > 0) return;
    level.items.delete(memory);
    level.sizes.splice(firstFrom(level.sizes, memory), 1);
  }

  /** Those with at least so much of both, tightest first, until `visit` answers true. */
  find(gpus: number, memory: number, visit: (item: T) => boolean): void {
    for (let count = gpus; count < this.#levels.length; count++) {
      const level = this.#levels[count];
      if (level === undefined) continue;
      for (let i = firstFrom(level.sizes, memory); i < level.sizes.length; i++) {
        for (const item of level.items.get(level.sizes[i] ?? 0) ?? []) if (visit(item)) return;
      }
    }
  }
}

/** Index of the first of `sorted` that is not below `value`. */
function firstFrom(sorted: number[], value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
