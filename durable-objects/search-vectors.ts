/**
 * Vectors of documents in memory, by document id: int8 in one array, and their signs as bits. Up to {@link EXACT_MAX} documents each is compared; beyond,
 * the bits choose {@link SHORTLIST} (50,000 in about 3 ms) and only those are compared (measured: all 50,000 take 20 ms in JavaScript).
 */
import { bitCount, VECTOR_DIMENSIONS } from "../schema/search-ranking.ts";

const EXACT_MAX = 4_096;
/** Signs alone order roughly: so many are compared in full. */
const SHORTLIST = 600;
const WORDS = VECTOR_DIMENSIONS / 32;
/** Ids that fit after a growth, as a factor. */
const GROWTH = 1.25;
const CAPACITY_MIN = 8_192;

export class SearchVectors {
  #vectors = new Int8Array(0);
  #bits = new Int32Array(0);
  /** Euclidean length of each int8 vector; 0 where there is none */
  #norms = new Float32Array(0);
  #count = 0;

  /** documents that have a vector */
  get count(): number {
    return this.#count;
  }

  get bytes(): number {
    return this.#vectors.byteLength + this.#bits.byteLength + this.#norms.byteLength;
  }

  set(id: number, vector: Int8Array): void {
    this.#reserve(id + 1);
    if (this.#norms[id] === 0) this.#count += 1;
    this.#vectors.set(vector, id * VECTOR_DIMENSIONS);
    this.#bits.set(signs(vector), id * WORDS);
    this.#norms[id] = norm(vector);
  }

  remove(id: number): void {
    if (id >= this.#norms.length || this.#norms[id] === 0) return;
    this.#norms[id] = 0;
    this.#count -= 1;
  }

  /** Null where the document has no vector. */
  cosine(id: number, query: Int8Array): number | null {
    const length = this.#norms[id] ?? 0;
    if (length === 0) return null;
    let dot = 0;
    for (let j = 0, at = id * VECTOR_DIMENSIONS; j < VECTOR_DIMENSIONS; j++, at++) {
      dot += Math.imul(this.#vectors[at] ?? 0, query[j] ?? 0);
    }
    return dot / (length * norm(query));
  }

  /** The documents nearest to `query` with ids in [from, to) that `accepts` lets pass, nearest first. */
  nearest(query: Int8Array, from: number, to: number, accepts: (id: number) => boolean, count: number): number[] {
    const end = Math.min(to, this.#norms.length);
    const ids = this.#count > EXACT_MAX ? this.#shortlist(query, from, end, accepts) : range(from, end, accepts);
    return ids
      .map((id) => ({ id, cosine: this.cosine(id, query) }))
      .filter((entry): entry is { id: number; cosine: number } => entry.cosine !== null)
      .sort((a, b) => b.cosine - a.cosine || a.id - b.id)
      .slice(0, count)
      .map((entry) => entry.id);
  }

  /** Those whose signs differ least. Distances are few, so they are counted instead of sorted. */
  #shortlist(query: Int8Array, from: number, to: number, accepts: (id: number) => boolean): number[] {
    const wanted = signs(query);
    const bits = this.#bits;
    const norms = this.#norms;
    const distances = new Uint16Array(Math.max(0, to - from));
    const counts = new Uint32Array(VECTOR_DIMENSIONS + 1);
    for (let id = from, at = from * WORDS; id < to; id++, at += WORDS) {
      if (norms[id] === 0 || !accepts(id)) {
        distances[id - from] = VECTOR_DIMENSIONS + 1;
        continue;
      }
      let distance = 0;
      for (let j = 0; j < WORDS; j++) distance += bitCount((bits[at + j] ?? 0) ^ (wanted[j] ?? 0));
      distances[id - from] = distance;
      counts[distance] = (counts[distance] ?? 0) + 1;
    }
    let bound = 0;
    for (let found = counts[0] ?? 0; found < SHORTLIST && bound < VECTOR_DIMENSIONS; ) {
      bound += 1;
      found += counts[bound] ?? 0;
    }
    const ids: number[] = [];
    for (let i = 0; i < distances.length; i++) if ((distances[i] ?? 0) <= bound) ids.push(from + i);
    return ids;
  }

  #reserve(size: number): void {
    if (size <= this.#norms.length) return;
    const capacity = Math.max(CAPACITY_MIN, Math.ceil(size * GROWTH));
    const vectors = new Int8Array(capacity * VECTOR_DIMENSIONS);
    vectors.set(this.#vectors);
    const bits = new Int32Array(capacity * WORDS);
    bits.set(this.#bits);
    const norms = new Float32Array(capacity);
    norms.set(this.#norms);
    this.#vectors = vectors;
    this.#bits = bits;
    this.#norms = norms;
  }
}

function range(from: number, to: number, accepts: (id: number) => boolean): number[] {
  const ids: number[] = [];
  for (let id = from; id < to; id++) if (accepts(id)) ids.push(id);
  return ids;
}

function signs(vector: Int8Array): Int32Array {
  const bits = new Int32Array(WORDS);
  for (let j = 0; j < VECTOR_DIMENSIONS; j++) {
    if ((vector[j] ?? 0) > 0) bits[j >> 5] = (bits[j >> 5] ?? 0) | (1 << (j & 31));
  }
  return bits;
}

function norm(vector: Int8Array): number {
  let sum = 0;
  for (const part of vector) sum += part * part;
  return Math.sqrt(sum);
}
