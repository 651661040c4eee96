/**
 * How search ranks: words of a query, their weight, words that were mistyped, vectors as int8, and the score that joins match, use and health.
 * Pure. The index that finds candidates is durable-objects/search-index.ts.
 */

/** Dimensions of all-MiniLM-L6-v2. */
export const VECTOR_DIMENSIONS = 384;
/** A longer query is cut: it has said what it wants by then. */
export const QUERY_WORDS_MAX = 24;

/** Words of English that say nothing of a task; "model" and "ai" are in every entry of a catalog of models. */
const STOP_WORDS = new Set(
  `a about all am an and any are as at be been being but by can could did do does for from get give got had has have help how i id if in into is it its just
  let like make me my need needs of on one or our out please should so some someone something stuff than that the their them then there these they thing
  things this to up us use used using want was we what when where which while version who will with would you your ai model models tool tools`.split(
    /\s+/,
  ),
);

/** Lower case, without accents, split where neither letters nor digits are; what the index's tokenizer does, but for the stems. */
export function words(text: string): string[] {
  const bare = text.normalize("NFD").replace(/\p{M}/gu, "").normalize("NFC").toLowerCase();
  return bare.match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** What a query asks for: each of its words once, without those that say nothing, unless it has no others. */
export function queryWords(query: string): string[] {
  const all = [...new Set(words(query))];
  const telling = all.filter((word) => !STOP_WORDS.has(word) && (word.length > 1 || /\P{ASCII}/u.test(word)));
  return (telling.length > 0 ? telling : all).slice(0, QUERY_WORDS_MAX);
}

/** How much a word tells that `matches` of `documents` have; never below zero, so that it works in a catalog of six models too (as Lucene has it). */
export function wordWeight(documents: number, matches: number): number {
  return Math.log(1 + (documents - Math.min(matches, documents) + 0.5) / (matches + 0.5));
}

// ---- mistyped words

/** Edits that a mistyped word may be away from the one that was meant. */
export function typosAllowed(word: string): 0 | 1 | 2 {
  if (word.length < 4 || /\d/.test(word)) return 0;
  return word.length < 7 ? 1 : 2;
}

/** Letters put in, left out, exchanged or swapped with their neighbour between `a` and `b` (optimal string alignment); more than `max` is `max + 1`. */
export function editDistance(a: string, b: string, max: number): number {
  if (Math.abs(a.length - b.length) > max) return max + 1;
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    let best = i;
    for (let j = 1; j <= b.length; j++) {
      const exchanged = (above[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      let cost = Math.min((above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, exchanged);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, (before[j - 2] ?? 0) + 1);
      row.push(cost);
      if (cost < best) best = cost;
    }
    if (best > max) return max + 1;
    before = above;
    above = row;
  }
  return Math.min(above[b.length] ?? 0, max + 1);
}

/** The set of a word's letters as bits: two words that are n edits apart differ in 2n of them at most. */
function letters(word: string): number {
  let bits = 0;
  for (let i = 0; i < word.length; i++) bits |= 1 << (word.charCodeAt(i) % 32);
  return bits;
}

/** Words that can be meant by mistyped ones. A look-up in 100,000 words takes about a millisecond. */
export class Vocabulary {
  readonly #words: string[] = [];
  readonly #letters: number[] = [];
  readonly #known = new Set<string>();

  constructor(known: Iterable<string>) {
    for (const word of known) this.add(word);
  }

  add(word: string): void {
    if (this.#known.has(word)) return;
    this.#known.add(word);
    this.#words.push(word);
    this.#letters.push(letters(word));
  }

  /** The words nearest to `word`, nearest first, `count` at most; none where it is too short to be told from others. */
  similar(word: string, count = 3): string[] {
    const allowed = typosAllowed(word);
    if (allowed === 0) return [];
    const bits = letters(word);
    const found: { word: string; distance: number }[] = [];
    for (let i = 0; i < this.#words.length; i++) {
      if (bitCount(bits ^ (this.#letters[i] ?? 0)) > 2 * allowed) continue;
      const known = this.#words[i] ?? "";
      const distance = editDistance(word, known, allowed);
      // Few people mistype the first letter.
      if (distance <= allowed) found.push({ word: known, distance: distance + (known[0] === word[0] ? 0 : 0.5) });
    }
    found.sort((a, b) => a.distance - b.distance || (a.word < b.word ? -1 : 1));
    return found.slice(0, count).map((entry) => entry.word);
  }
}

export function bitCount(value: number): number {
  let bits = value - ((value >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

// ---- vectors

const INT8_MAX = 127;

/** A vector of any length as int8: its largest part becomes 127, so nothing is cut. Null when it has not {@link VECTOR_DIMENSIONS} finite parts. */
export function quantise(vector: readonly number[]): Int8Array | null {
  if (vector.length !== VECTOR_DIMENSIONS || !vector.every(Number.isFinite)) return null;
  const largest = vector.reduce((max, part) => Math.max(max, Math.abs(part)), 0);
  if (largest === 0) return null;
  return Int8Array.from(vector, (part) => Math.round((part / largest) * INT8_MAX));
}

// ---- score

/** Where a word was found. Titles, names and tags are written to be found by; a README mentions much that the model is not. */
export const FIELD_WEIGHTS = { names: 1, descriptions: 0.7, tasks: 0.6, readmes: 0.3 } as const;
export type Field = keyof typeof FIELD_WEIGHTS;
export const FIELDS = Object.keys(FIELD_WEIGHTS) as Field[];
export interface Match {
  /** sum over the query's words and the fields that have them: weight of the field times weight of the word */
  text: number;
  /** sum of the weights of the query's words */
  text_max: number;
  /** a tag or title of several words stands in the query as it is */
  has_phrase: boolean;
  /** null: the document, or the query, has no vector */
  cosine: number | null;
}

export interface Health {
  has_version: boolean;
  /** an instance is ready, or was moments ago */
  is_warm: boolean;
  is_failing: boolean;
}

/** A word in the title and in the description is as good a match as there is. */
const FIELDS_MATCHED_WELL = FIELD_WEIGHTS.names + FIELD_WEIGHTS.descriptions;
/** Cosines of sentences that have nothing to do with each other lie below the first, of such that mean the same above the second (all-MiniLM-L6-v2). */
const COSINE_FLOOR = 0.1;
const COSINE_CEILING = 0.65;
/** Share of the vector in a match; the rest is the text's. */
const VECTOR_SHARE = 0.5;
const PHRASE_BONUS = 0.3;

/** How well a document answers the query, 0 to 1.3. */
export function match({ text, text_max, has_phrase, cosine }: Match): number {
  const byText =
    (text_max === 0 ? 0 : Math.min(1, text / (text_max * FIELDS_MATCHED_WELL))) + (has_phrase ? PHRASE_BONUS : 0);
  if (cosine === null) return byText;
  const byVector = Math.min(1, Math.max(0, (cosine - COSINE_FLOOR) / (COSINE_CEILING - COSINE_FLOOR)));
  return VECTOR_SHARE * byVector + (1 - VECTOR_SHARE) * byText;
}

/** What use and health can add to or take from a match: they order what matches alike and never lift what does not. */
const USE_BONUS = 0.08;
const RUNS_OF_THE_MOST_USED = 1e7;
const WARM_BONUS = 0.02;
const NO_VERSION_PENALTY = 0.15;
const FAILING_PENALTY = 0.15;

/** The factor of a match by how much a model runs and how it fares, about 0.7 to 1.1. */
export function standing(runs: number, health: Health): number {
  return (
    1 +
    USE_BONUS * Math.min(1, Math.log1p(runs) / Math.log1p(RUNS_OF_THE_MOST_USED)) +
    (health.is_warm ? WARM_BONUS : 0) -
    (health.has_version ? 0 : NO_VERSION_PENALTY) -
    (health.is_failing ? FAILING_PENALTY : 0)
  );
}

/** Whether a phrase (a tag or a title) has several words and stands in `plainQuery` ({@link plain}), in this order and with nothing between. */
export function hasPhrase(plainQuery: string, phrase: string): boolean {
  const wanted = plain(phrase);
  return wanted.trim().includes(" ") && plainQuery.includes(wanted);
}

/** The words of a text, with a space before and behind each. */
export function plain(text: string): string {
  return ` ${words(text).join(" ")} `;
}
