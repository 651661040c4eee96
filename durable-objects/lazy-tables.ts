/**
 * Tables that an object's first write makes, so that asking about a guessed name stores nothing. Whether they are there is looked up until they are, and anew
 * after a transaction that was undone.
 */
export class LazyTables {
  readonly #sql: SqlStorage;
  readonly #statements: string;
  readonly #last: string;
  #ready = false;

  /** `last`: the table that `statements` make last. Where it is, all of them are, in folders of earlier releases too. */
  constructor(sql: SqlStorage, statements: string, last: string) {
    this.#sql = sql;
    this.#statements = statements;
    this.#last = last;
  }

  /** False while nothing was ever written: then there is nothing to read. */
  exist(): boolean {
    this.#ready ||= this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", this.#last).toArray().length > 0;
    return this.#ready;
  }

  /** Inside a commit. True where they were not there before. */
  create(): boolean {
    if (this.exist()) return false;
    this.#sql.exec(this.#statements);
    this.#ready = true;
    return true;
  }

  /** For a transaction that was undone: the tables may be gone with it. */
  forget(): void {
    this.#ready = false;
  }
}
