/**
 * Which documents have a word: FTS5 tables of public and of private documents, one for each field, and the words that mistyped ones may stand for.
 *
 * FTS5 gives stems and lists of the documents that have a word, nothing else: its own ranking (bm25) gives words that half of a small catalog has no
 * weight at all, and takes 40 to 80 ms for common words in 50,000 documents (measured), where lists alone take 1 to 3.
 */
import { FIELDS, type Field, queryWords, Vocabulary, words, wordWeight } from "../schema/search-ranking.ts";

/** A word that more documents have tells nothing. */
const POSTINGS_MAX = 100_000;
/** Where names and descriptions give so many, READMEs that mention the word add only noise. */
const README_NEEDED_BELOW = 5_000;
/** Entries of remembered word lists, 4 bytes each. */
const POSTINGS_KEPT_MAX = 2_000_000;

/** Ids of the public documents that have a word, by field. */
type Postings = Record<Field, Int32Array>;
export type FieldTexts = Record<Field, string>;

export interface Term {
  /** FTS5 expression: the word, or what was most likely meant by it */
  expression: string;
  postings: Postings;
  weight: number;
}

export class SearchWords {
  readonly #sql: SqlStorage;
  readonly #postings = new Map<string, Postings>();
  #postingsKept = 0;
  /** read at the first mistyped word; words that went meanwhile find nothing, which does no harm */
  #vocabulary: Vocabulary | null = null;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  createTables(): void {
    this.#sql.exec(
      "CREATE TABLE IF NOT EXISTS words (word TEXT PRIMARY KEY, documents INTEGER NOT NULL) WITHOUT ROWID",
    );
    for (const side of ["public", "private"]) {
      for (const field of FIELDS) {
        this.#sql.exec(
          `CREATE VIRTUAL TABLE IF NOT EXISTS ${side}_${field} USING fts5(text, content='', contentless_delete=1, detail=none, tokenize='porter unicode61')`,
        );
      }
    }
  }

  get bytes(): number {
    return this.#postingsKept * Int32Array.BYTES_PER_ELEMENT;
  }

  put(id: number, isPublic: boolean, texts: FieldTexts): void {
    for (const field of FIELDS) {
      const text = words(texts[field]).join(" ");
      if (text !== "") this.#sql.exec(`INSERT INTO ${table(isPublic, field)} (rowid, text) VALUES (?, ?)`, id, text);
    }
    if (!isPublic) return;
    this.#count(texts, 1);
    this.#forget();
  }

  /** `texts`: names and descriptions as they were put. */
  remove(id: number, isPublic: boolean, texts: Pick<FieldTexts, "names" | "descriptions">): void {
    for (const field of FIELDS) this.#sql.exec(`DELETE FROM ${table(isPublic, field)} WHERE rowid = ?`, id);
    if (!isPublic) return;
    this.#count(texts, -1);
    this.#forget();
  }

  /** The words of a query, and who of so many public documents has them. */
  terms(query: string, documents: number): Term[] {
    return queryWords(query).map((word) => {
      let expression = `"${word}"`;
      let postings = this.#publicPostings(expression);
      // A word that none has stands for those that begin so, and for those that were most likely meant.
      if (FIELDS.every((field) => postings[field].length === 0)) {
        const meant = this.#known().similar(word);
        expression = [`"${word}" *`, ...meant.map((known) => `"${known}"`)].join(" OR ");
        postings = this.#publicPostings(expression);
      }
      const matches = Math.max(...FIELDS.map((field) => postings[field].length));
      return { expression, postings, weight: wordWeight(documents, matches) };
    });
  }

  privateMatches(field: Field, expression: string): Int32Array {
    return this.#matches(table(false, field), expression);
  }

  #publicPostings(expression: string): Postings {
    const kept = this.#postings.get(expression);
    if (kept !== undefined) return kept;
    const matches = (field: Field) => this.#matches(table(true, field), expression);
    const [names, descriptions, tasks] = [matches("names"), matches("descriptions"), matches("tasks")];
    const isCommon = names.length + descriptions.length >= README_NEEDED_BELOW;
    const postings = { names, descriptions, tasks, readmes: isCommon ? new Int32Array(0) : matches("readmes") };
    const size = FIELDS.reduce((sum, field) => sum + postings[field].length, 0);
    if (this.#postingsKept + size > POSTINGS_KEPT_MAX) {
      this.#postings.clear();
      this.#postingsKept = 0;
    }
    this.#postingsKept += size;
    this.#postings.set(expression, postings);
    return postings;
  }

  /** One value instead of a row each: crossing from SQLite is what costs. */
  #matches(name: string, expression: string): Int32Array {
    const { ids } = this.#sql
      .exec<{ ids: string }>(
        `SELECT json_group_array(id) AS ids FROM (SELECT rowid AS id FROM ${name} WHERE ${name} MATCH ? LIMIT ${POSTINGS_MAX})`,
        expression,
      )
      .one();
    return Int32Array.from(JSON.parse(ids) as number[]);
  }

  #known(): Vocabulary {
    this.#vocabulary ??= new Vocabulary(
      this.#sql
        .exec<{ word: string }>("SELECT word FROM words")
        .toArray()
        .map((row) => row.word),
    );
    return this.#vocabulary;
  }

  /** Counts the documents that have a word in names or description; a word that none has is forgotten. */
  #count({ names, descriptions }: Pick<FieldTexts, "names" | "descriptions">, by: 1 | -1): void {
    for (const word of new Set(words(`${names} ${descriptions}`))) {
      this.#sql.exec(
        "INSERT INTO words VALUES (?1, ?2) ON CONFLICT DO UPDATE SET documents = documents + ?2",
        word,
        by,
      );
      if (by > 0) this.#vocabulary?.add(word);
      else this.#sql.exec("DELETE FROM words WHERE word = ? AND documents <= 0", word);
    }
  }

  #forget(): void {
    this.#postings.clear();
    this.#postingsKept = 0;
  }
}

function table(isPublic: boolean, field: Field): string {
  return `${isPublic ? "public" : "private"}_${field}`;
}
