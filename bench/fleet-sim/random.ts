/**
 * Numbers that are equal on every machine and in every release of Node. Each named stream is independent of all others, so a deployment that is
 * added to a trace changes no other deployment.
 */
export class Random {
  readonly #state: Uint32Array;

  constructor(seed: number, stream: string) {
    const text = `${seed}/${stream}`;
    this.#state = Uint32Array.from([1, 2, 3, 4], (part) => hash(part, text));
    for (let i = 0; i < 16; i++) this.#next();
  }

  /** Marsaglia's xorshift of 128 bits. */
  #next(): number {
    const state = this.#state;
    const first = state[0] ?? 0;
    const last = state[3] ?? 0;
    const mixed = first ^ (first << 11);
    state.copyWithin(0, 1);
    state[3] = last ^ (last >>> 19) ^ mixed ^ (mixed >>> 8);
    return state[3];
  }

  /** In [0, 1). */
  uniform(): number {
    return this.#next() / 2 ** 32;
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.uniform();
  }

  /** Evenly spread over orders of magnitude. */
  logBetween(low: number, high: number): number {
    return low * (high / low) ** this.uniform();
  }

  exponential(mean: number): number {
    return -mean * Math.log(1 - this.uniform());
  }

  /** Its mean is `mean`; `sigma` is the deviation of its logarithm. */
  logNormal(mean: number, sigma: number): number {
    const normal = Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
    return mean * Math.exp(sigma * normal - (sigma * sigma) / 2);
  }

  /** Pareto's: at least `min`, with a mean of `min * shape / (shape - 1)`; cut at `max`. */
  pareto(min: number, shape: number, max: number): number {
    return Math.min(max, min / (1 - this.uniform()) ** (1 / shape));
  }
}

/** FNV-1a with another start for each part. */
function hash(part: number, text: string): number {
  let value = Math.imul(2_166_136_261 ^ part, 16_777_619);
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 16_777_619);
  return value === 0 ? part : value;
}
