/**
 * A bounded in-isolate memory for rows that change rarely, so that the warm path reads no database. A value is fresh for half its life, then served
 * once more while it is read again behind the answer, and never served after its life: a change is seen within `lifeMs` everywhere.
 * Requests never wait for one another's reads: a read belongs to the request that began it and dies with it.
 */
export class Memo<V> {
  readonly #entries = new Map<string, { value: V; read_at: number; renewing: boolean }>();
  readonly #lifeMs: number;
  readonly #entriesMax: number;

  constructor(lifeMs: number, entriesMax: number) {
    this.#lifeMs = lifeMs;
    this.#entriesMax = entriesMax;
  }

  /**
   * The value of `key`, read by `load` when it is not in memory. `later` keeps a renewal alive behind the answer (waitUntil). A remembered value that does
   * not suffice is read anew: what was made a moment ago is found, and only those who look in vain pay for it.
   */
  async get(
    key: string,
    load: () => Promise<V>,
    later: (work: Promise<unknown>) => void,
    suffices: (value: V) => boolean = () => true,
  ): Promise<V> {
    const entry = this.#entries.get(key);
    const age = entry === undefined ? Number.POSITIVE_INFINITY : Date.now() - entry.read_at;
    if (entry === undefined || age >= this.#lifeMs || !suffices(entry.value)) return this.#read(key, load);
    if (age >= this.#lifeMs / 2 && !entry.renewing) {
      entry.renewing = true;
      // A failed renewal is no failure of this request: the entry ends its life and the next reader sees the error.
      later(this.#read(key, load).catch(() => undefined));
    }
    return entry.value;
  }

  forget(key: string): void {
    this.#entries.delete(key);
  }

  clear(): void {
    this.#entries.clear();
  }

  async #read(key: string, load: () => Promise<V>): Promise<V> {
    // The time before the read: what is changed while it runs must count as unseen.
    const read_at = Date.now();
    const value = await load();
    this.#entries.delete(key);
    if (this.#entries.size >= this.#entriesMax) this.#entries.delete(this.#entries.keys().next().value ?? "");
    this.#entries.set(key, { value, read_at, renewing: false });
    return value;
  }
}
