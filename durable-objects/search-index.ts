/**
 * The index of search in the object's SQLite: documents, their words, vectors and cards. What one account's private models say never moves what another
 * account finds: words are weighed and mistyped ones resolved by public documents alone, and private ones are matched in tables of their own.
 */
import { FIELD_WEIGHTS, FIELDS, hasPhrase, match, plain, standing } from "../schema/search-ranking.ts";
import { phrasesOf, TASK_PHRASES, tasksOf } from "../schema/search-tasks.ts";
import type { SearchViewer } from "./search-contract.ts";
import { SearchVectors } from "./search-vectors.ts";
import { type FieldTexts, SearchWords, type Term } from "./search-words.ts";

export type DocumentKind = "model" | "collection" | "page";

export interface SearchDocument {
  kind: DocumentKind;
  /** owner/name, slug or address: unique among its kind */
  path: string;
  /** usernames that may see it; null is everybody */
  readers: string[] | null;
  title: string | null;
  description: string | null;
  tags: string[];
  text: string | null;
  /** JSON of what is shown */
  card: string;
  has_version: boolean;
  is_failing: boolean;
  is_official: boolean;
  /** an older state never replaces a newer one */
  updated_at: number;
}

export interface Found {
  kind: DocumentKind;
  path: string;
  is_public: boolean;
  tags: string[];
  runs: number | null;
  score: number;
  card: string;
}

/** Ids are dense, since they index arrays: the phrases of tasks (which have vectors alone) from 0, then collections and pages, then models. */
const OTHERS_ID_MIN = 1_024;
const MODEL_ID_MIN = 4_096;
/** Of a README its beginning says what the model is for. */
const README_CHARACTERS_MAX = 4_000;
/** The best by text, and the nearest by vector, that are ranked in full: what can be paged through. */
const CANDIDATES_MAX = 100;
/** Tasks that a query's vector means most likely: their models are candidates, whatever their own words say. */
const TASKS_MEANT_MAX = 3;
const TASK_COSINE_MIN = 0.35;
/** Answers that are remembered, some 10 KB each. */
const RANKED_KEPT_MAX = 200;
/** A model that ran within this time has an instance, most likely. */
const WARM_MS = 300_000;
/** Text that a vector is made of: the embeddings model reads about 190 words. */
const VECTOR_TEXT_CHARACTERS = 1_000;

interface DocumentRow extends Record<string, SqlStorageValue> {
  id: number;
  kind: DocumentKind;
  path: string;
  is_public: number;
  title: string | null;
  description: string | null;
  tags: string;
  /** JSON of task numbers; worked out anew from tags and title whenever the document is written */
  tasks: string;
  has_version: number;
  is_failing: number;
  is_official: number;
  runs: number | null;
  ran_at: number | null;
  updated_at: number;
  digest: string;
}

export class SearchIndex {
  readonly #sql: SqlStorage;
  readonly #vectors = new SearchVectors();
  readonly #words: SearchWords;
  /** what everybody finds, until anything changes */
  readonly #ranked = new Map<string, RankedDocument[]>();
  /** by id: the factor by use and health; 0 where there is no document */
  #standings = new Float32Array(0);
  #isPublic = new Uint8Array(0);
  readonly #byTask = new Map<number, Set<number>>();
  #documents = 0;
  #vectorTexts = 0;
  #idEnd = MODEL_ID_MIN;
  /** scratch of one search */
  #scores = new Float32Array(0);

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#words = new SearchWords(sql);
  }

  /** Tables and memory; the first search or change does it. */
  open(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS documents (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, path TEXT NOT NULL, is_public INTEGER NOT NULL, title TEXT, description TEXT, tags TEXT NOT NULL, tasks TEXT NOT NULL,
        has_version INTEGER NOT NULL, is_failing INTEGER NOT NULL, is_official INTEGER NOT NULL, runs INTEGER, ran_at INTEGER, updated_at INTEGER NOT NULL,
        digest TEXT NOT NULL, UNIQUE (kind, path));
      CREATE TABLE IF NOT EXISTS free_ids (id INTEGER PRIMARY KEY);
      CREATE TABLE IF NOT EXISTS cards (id INTEGER PRIMARY KEY, card TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS vector_texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
      CREATE TABLE IF NOT EXISTS readers (username TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (username, id)) WITHOUT ROWID;
      CREATE INDEX IF NOT EXISTS readers_by_id ON readers (id);
    `);
    this.#words.createTables();
    this.#vectorTexts = this.#sql.exec<{ n: number }>("SELECT count(*) AS n FROM vector_texts").one().n;
    const { end } = this.#sql.exec<{ end: number | null }>("SELECT max(id) + 1 AS end FROM documents").one();
    this.#idEnd = Math.max(MODEL_ID_MIN, end ?? 0);
    this.#reserve(this.#idEnd);
    for (const row of this.#sql.exec<DocumentRow>("SELECT * FROM documents")) this.#place(row);
    TASK_PHRASES.forEach(({ text }, id) => {
      this.#putVectorText(id, text);
    });
    for (const row of this.#sql.exec<{ id: number; vector: ArrayBuffer }>("SELECT id, vector FROM vectors")) {
      this.#vectors.set(row.id, new Int8Array(row.vector));
    }
  }

  // ---- what is in it

  /** Puts a document in or replaces it; false when it was there like this, or newer. */
  put(document: SearchDocument, digest: string): boolean {
    const { kind, path } = document;
    const known = this.#find(kind, path);
    if (known !== null && (known.digest === digest || known.updated_at > document.updated_at)) return false;
    if (known !== null) this.#removeWords(known);
    const id = known?.id ?? this.#newId(kind);
    const tasks = tasksOf([...document.tags, document.title ?? ""]);
    const row: DocumentRow = {
      id,
      kind,
      path,
      is_public: document.readers === null ? 1 : 0,
      title: document.title,
      description: document.description,
      tags: JSON.stringify(document.tags),
      tasks: JSON.stringify(tasks),
      has_version: document.has_version ? 1 : 0,
      is_failing: document.is_failing ? 1 : 0,
      is_official: document.is_official ? 1 : 0,
      runs: known?.runs ?? null,
      ran_at: known?.ran_at ?? null,
      updated_at: document.updated_at,
      digest,
    };
    this.#sql.exec(
      "INSERT OR REPLACE INTO documents (id, kind, path, is_public, title, description, tags, tasks, has_version, is_failing, is_official, runs, ran_at, updated_at, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      ...Object.values(row),
    );
    this.#sql.exec("INSERT OR REPLACE INTO cards VALUES (?, ?)", id, document.card);
    for (const username of new Set(document.readers ?? [])) {
      this.#sql.exec("INSERT OR IGNORE INTO readers VALUES (?, ?)", username, id);
    }
    this.#words.put(id, row.is_public === 1, {
      ...namesAndDescription(row),
      tasks: phrasesOf(tasks),
      readmes: (document.text ?? "").slice(0, README_CHARACTERS_MAX),
    });
    this.#putVectorText(id, vectorText(document));
    this.#reserve(id + 1);
    this.#place(row);
    this.#ranked.clear();
    return true;
  }

  remove(kind: DocumentKind, path: string): void {
    const row = this.#find(kind, path);
    if (row === null) return;
    this.#removeWords(row);
    for (const table of ["documents", "cards", "vector_texts", "vectors"]) {
      this.#sql.exec(`DELETE FROM ${table} WHERE id = ?`, row.id);
    }
    this.#sql.exec("INSERT OR IGNORE INTO free_ids VALUES (?)", row.id);
    this.#vectors.remove(row.id);
    this.#vectorTexts -= 1;
    this.#standings[row.id] = 0;
    if (row.is_public === 1) this.#documents -= 1;
    this.#ranked.clear();
  }

  paths(kind: DocumentKind): string[] {
    return this.#sql
      .exec<{ path: string }>("SELECT path FROM documents WHERE kind = ?", kind)
      .toArray()
      .map((row) => row.path);
  }

  count(kind: DocumentKind): number {
    return this.#sql.exec<{ n: number }>("SELECT count(*) AS n FROM documents WHERE kind = ?", kind).one().n;
  }

  setRuns(path: string, runs: number, ran_at: number | null): void {
    const known = this.#find("model", path);
    if (known === null || (known.runs === runs && ran_at === null)) return;
    const row: DocumentRow = { ...known, runs: Math.max(runs, known.runs ?? 0), ran_at: ran_at ?? known.ran_at };
    this.#sql.exec("UPDATE documents SET runs = ?, ran_at = ? WHERE id = ?", row.runs, row.ran_at, row.id);
    this.#standings[row.id] = standingOf(row);
    this.#ranked.clear();
  }

  // ---- vectors

  get vectorCount(): number {
    return this.#vectors.count;
  }

  /** Texts that still want one. */
  get vectorsMissing(): number {
    return this.#vectorTexts - this.#vectors.count;
  }

  /** Bytes of memory in arrays. */
  get bytes(): number {
    const arrays = [this.#standings, this.#isPublic, this.#scores];
    return this.#vectors.bytes + this.#words.bytes + arrays.reduce((sum, array) => sum + array.byteLength, 0);
  }

  /** Texts of documents that have no vector yet. */
  withoutVector(limit: number): { id: number; text: string }[] {
    return this.#sql
      .exec<{ id: number; text: string }>(
        "SELECT id, text FROM vector_texts WHERE id NOT IN (SELECT id FROM vectors) ORDER BY id LIMIT ?",
        limit,
      )
      .toArray();
  }

  /** `text`: what it was made of; it is dropped when the document says something else by now. */
  putVector(id: number, text: string, vector: Int8Array): void {
    const [known] = this.#sql.exec<{ text: string }>("SELECT text FROM vector_texts WHERE id = ?", id).toArray();
    if (known?.text !== text) return;
    this.#sql.exec("INSERT OR REPLACE INTO vectors VALUES (?, ?)", id, vector.slice().buffer);
    this.#vectors.set(id, vector);
    this.#ranked.clear();
  }

  /** Another embeddings model makes vectors of another space. */
  dropVectors(): void {
    for (const { id } of this.#sql.exec<{ id: number }>("SELECT id FROM vectors").toArray()) this.#vectors.remove(id);
    this.#sql.exec("DELETE FROM vectors");
    this.#ranked.clear();
  }

  // ---- search

  /** What the viewer may see, best first: models, then each other kind. `vector` is the query's; without one words alone count. */
  search(query: string, vector: Int8Array | null, viewer: SearchViewer | null): RankedDocument[] {
    const own = this.#ownDocuments(viewer);
    const allowed = this.#allowedIds(viewer);
    if (own.size > 0 || allowed !== null) return this.#rank(query, vector, own, allowed);
    const key = `${vector === null ? "text" : "hybrid"} ${query}`;
    const kept = this.#ranked.get(key);
    if (kept !== undefined) return kept;
    const ranked = this.#rank(query, vector, own, allowed);
    if (this.#ranked.size >= RANKED_KEPT_MAX) this.#ranked.clear();
    this.#ranked.set(key, ranked);
    return ranked;
  }

  #rank(query: string, vector: Int8Array | null, own: Set<number>, allowed: Set<number> | null): RankedDocument[] {
    const sees = (id: number): boolean =>
      (this.#standings[id] ?? 0) > 0 &&
      (this.#isPublic[id] === 1 || own.has(id)) &&
      (allowed === null || id < MODEL_ID_MIN || allowed.has(id));
    const terms = this.#words.terms(query, this.#documents);
    const text_max = terms.reduce((sum, term) => sum + term.weight, 0);
    const touched = this.#addUp(terms, own);
    const tasks = vector === null ? new Map<number, number>() : this.#taskCosines(vector);
    const ranges = [
      [MODEL_ID_MIN, this.#idEnd],
      [OTHERS_ID_MIN, MODEL_ID_MIN],
    ] as const;
    const ids = ranges.flatMap(([from, to]) => {
      const byText = this.#best(touched, from, to, sees);
      const byVector = vector === null ? [] : this.#vectors.nearest(vector, from, to, sees, CANDIDATES_MAX);
      const byTask = meant(tasks).map((task) => this.#best(this.#byTask.get(task) ?? [], from, to, sees));
      return [...new Set([...byText, ...byVector, ...byTask.flat()])];
    });
    const said = plain(query);
    const ranked = this.#rows(ids).map((row) => {
      const phrases = [...(JSON.parse(row.tags) as string[]), row.title ?? ""];
      const matched = match({
        text: this.#scores[row.id] ?? 0,
        text_max,
        has_phrase: phrases.some((phrase) => hasPhrase(said, phrase)),
        cosine: vector === null ? null : this.#cosine(row, vector, tasks),
      });
      return { row, score: matched * (this.#standings[row.id] ?? 0) };
    });
    for (const id of touched) this.#scores[id] = 0;
    return ranked
      .filter((entry) => entry.score > SCORE_MIN)
      .sort((a, b) => b.score - a.score || a.row.id - b.row.id)
      .map(({ row, score }) => ({ id: row.id, kind: row.kind, score }));
  }

  /** The documents of a page, with what is shown of them. */
  show(page: RankedDocument[]): Found[] {
    const rows = new Map(this.#rows(page.map(({ id }) => id)).map((row) => [row.id, row]));
    return page.flatMap(({ id, score }) => {
      const row = rows.get(id);
      const [card] = this.#sql.exec<{ card: string }>("SELECT card FROM cards WHERE id = ?", id).toArray();
      if (row === undefined || card === undefined) return [];
      const { kind, path, runs } = row;
      return [{ kind, path, runs, score, is_public: row.is_public === 1, tags: JSON.parse(row.tags), card: card.card }];
    });
  }

  #rows(ids: number[]): DocumentRow[] {
    return this.#sql
      .exec<DocumentRow>("SELECT * FROM documents WHERE id IN (SELECT value FROM json_each(?))", JSON.stringify(ids))
      .toArray();
  }

  /** Ids of private documents that the viewer may see. */
  #ownDocuments(viewer: SearchViewer | null): Set<number> {
    if (viewer === null) return new Set();
    const rows = this.#sql.exec<{ id: number }>(
      "SELECT id FROM readers WHERE username IN (SELECT value FROM json_each(?))",
      JSON.stringify(viewer.usernames),
    );
    return new Set(rows.toArray().map((row) => row.id));
  }

  #allowedIds(viewer: SearchViewer | null): Set<number> | null {
    if (viewer === null || viewer.allowed_models === null) return null;
    const rows = this.#sql.exec<{ id: number }>(
      "SELECT id FROM documents WHERE kind = 'model' AND path IN (SELECT value FROM json_each(?))",
      JSON.stringify(viewer.allowed_models),
    );
    return new Set(rows.toArray().map((row) => row.id));
  }

  /** How near the query comes to any phrase of each task. */
  #taskCosines(query: Int8Array): Map<number, number> {
    const cosines = new Map<number, number>();
    TASK_PHRASES.forEach(({ task }, id) => {
      const cosine = this.#vectors.cosine(id, query);
      if (cosine !== null && cosine > (cosines.get(task) ?? 0)) cosines.set(task, cosine);
    });
    return cosines;
  }

  /** Of what it says itself and of how people ask for its tasks, the nearer. */
  #cosine(row: DocumentRow, query: Int8Array, tasks: Map<number, number>): number | null {
    const own = this.#vectors.cosine(row.id, query);
    const cosines = (JSON.parse(row.tasks) as number[]).map((task) => tasks.get(task) ?? 0);
    return own === null && cosines.length === 0 ? null : Math.max(own ?? 0, ...cosines);
  }

  /** Adds each word's weight to the scores of the documents that have it. Answers which have any. */
  #addUp(terms: Term[], own: Set<number>): number[] {
    const touched: number[] = [];
    const scores = this.#scores;
    const add = (ids: Iterable<number>, weight: number) => {
      for (const id of ids) {
        if (scores[id] === 0) touched.push(id);
        scores[id] = (scores[id] ?? 0) + weight;
      }
    };
    for (const { postings, weight, expression } of terms) {
      for (const field of FIELDS) {
        add(postings[field], weight * FIELD_WEIGHTS[field]);
        if (own.size > 0) {
          const ids = this.#words.privateMatches(field, expression);
          add(
            ids.filter((id) => own.has(id)),
            weight * FIELD_WEIGHTS[field],
          );
        }
      }
    }
    return touched;
  }

  /** The best of the touched by text and standing. Scores are put into buckets instead of sorted: common words touch tens of thousands. */
  #best(touched: Iterable<number>, from: number, to: number, sees: (id: number) => boolean): number[] {
    const inRange: number[] = [];
    let top = 0;
    const worth = (id: number) => ((this.#scores[id] ?? 0) + WORTH_WITHOUT_WORDS) * (this.#standings[id] ?? 0);
    for (const id of touched) {
      if (id < from || id >= to || !sees(id)) continue;
      inRange.push(id);
      top = Math.max(top, worth(id));
    }
    if (inRange.length > CANDIDATES_MAX) {
      const bucketOf = (id: number) => Math.floor((worth(id) / top) * (BUCKETS - 1));
      const counts = new Uint32Array(BUCKETS);
      for (const id of inRange) counts[bucketOf(id)] = (counts[bucketOf(id)] ?? 0) + 1;
      let bound = BUCKETS;
      for (let found = 0; found < CANDIDATES_MAX && bound > 0; ) {
        bound -= 1;
        found += counts[bound] ?? 0;
      }
      const best = inRange.filter((id) => bucketOf(id) >= bound);
      return best.sort((a, b) => worth(b) - worth(a) || a - b).slice(0, CANDIDATES_MAX);
    }
    return inRange;
  }

  // ---- parts

  #find(kind: DocumentKind, path: string): DocumentRow | null {
    return (
      this.#sql.exec<DocumentRow>("SELECT * FROM documents WHERE kind = ? AND path = ?", kind, path).toArray()[0] ??
      null
    );
  }

  #newId(kind: DocumentKind): number {
    const isModel = kind === "model";
    const [free] = this.#sql
      .exec<{ id: number }>(
        `SELECT id FROM free_ids WHERE id ${isModel ? ">=" : "<"} ${MODEL_ID_MIN} ORDER BY id LIMIT 1`,
      )
      .toArray();
    if (free !== undefined) {
      this.#sql.exec("DELETE FROM free_ids WHERE id = ?", free.id);
      return free.id;
    }
    if (isModel) return this.#idEnd++;
    const { id } = this.#sql
      .exec<{ id: number }>(
        `SELECT coalesce(max(id) + 1, ${OTHERS_ID_MIN}) AS id FROM documents WHERE id < ${MODEL_ID_MIN}`,
      )
      .one();
    if (id >= MODEL_ID_MIN) throw new Error(`more than ${MODEL_ID_MIN} collections and pages`);
    return id;
  }

  /** Into memory. */
  #place(row: DocumentRow): void {
    const wasPublic = (this.#standings[row.id] ?? 0) > 0 && this.#isPublic[row.id] === 1;
    this.#standings[row.id] = standingOf(row);
    this.#isPublic[row.id] = row.is_public;
    this.#documents += row.is_public - (wasPublic ? 1 : 0);
    for (const task of JSON.parse(row.tasks) as number[]) {
      const ids = this.#byTask.get(task) ?? new Set();
      this.#byTask.set(task, ids.add(row.id));
    }
  }

  #removeWords(row: DocumentRow): void {
    for (const task of JSON.parse(row.tasks) as number[]) this.#byTask.get(task)?.delete(row.id);
    this.#words.remove(row.id, row.is_public === 1, namesAndDescription(row));
    this.#sql.exec("DELETE FROM readers WHERE id = ?", row.id);
  }

  #putVectorText(id: number, text: string): void {
    const [known] = this.#sql.exec<{ text: string }>("SELECT text FROM vector_texts WHERE id = ?", id).toArray();
    if (known?.text === text) return;
    if (known === undefined) this.#vectorTexts += 1;
    this.#sql.exec("INSERT OR REPLACE INTO vector_texts VALUES (?, ?)", id, text);
    this.#sql.exec("DELETE FROM vectors WHERE id = ?", id);
    this.#vectors.remove(id);
  }

  #reserve(size: number): void {
    if (size <= this.#standings.length) return;
    const capacity = Math.ceil(size * 1.25);
    const standings = new Float32Array(capacity);
    standings.set(this.#standings);
    const isPublic = new Uint8Array(capacity);
    isPublic.set(this.#isPublic);
    this.#standings = standings;
    this.#isPublic = isPublic;
    this.#scores = new Float32Array(capacity);
  }
}

export interface RankedDocument {
  id: number;
  kind: DocumentKind;
  score: number;
}

const BUCKETS = 1_024;
/** So that standing decides among models that share no word with the query and were found by their task. */
const WORTH_WITHOUT_WORDS = 0.01;
/** What matches less does not match. */
const SCORE_MIN = 0.02;

/** The tasks that come nearest, if near enough. */
function meant(tasks: Map<number, number>): number[] {
  return [...tasks]
    .filter(([, cosine]) => cosine >= TASK_COSINE_MIN)
    .sort((a, b) => b[1] - a[1])
    .slice(0, TASKS_MEANT_MAX)
    .map(([task]) => task);
}

function namesAndDescription(row: DocumentRow): Pick<FieldTexts, "names" | "descriptions"> {
  const tags = (JSON.parse(row.tags) as string[]).join(" ");
  const path = row.kind === "page" ? "" : row.path;
  return { names: `${path} ${row.title ?? ""} ${tags}`, descriptions: row.description ?? "" };
}

function standingOf(row: DocumentRow): number {
  return standing(row.runs ?? 0, {
    has_version: row.has_version === 1,
    is_warm: row.is_official === 1 || (row.ran_at !== null && Date.now() - row.ran_at < WARM_MS),
    is_failing: row.is_failing === 1,
  });
}

/** Short texts make the sharpest vectors. What people say who look for its task has vectors of its own. */
function vectorText({ title, path, description, tags }: SearchDocument): string {
  const parts = [title ?? path, description ?? "", tags.join(", ")];
  return parts
    .filter((part) => part !== "")
    .join(". ")
    .slice(0, VECTOR_TEXT_CHARACTERS);
}
