/**
 * The money of one account in its SQLite: the ledger, the sums that budgets are held against, reservations and credits. Implements {@link Books}, on which
 * schema/budgets.ts decides; the reads for pages are sums over the ledger. Every write is called inside a group commit.
 */
import { ACCOUNT_SCOPE, type Books, type Reservation, standing } from "../schema/budgets.ts";
import {
  type AccountTerms,
  type BookedCredit,
  creditUse,
  type DaySum,
  dayOf,
  type LedgerEntry,
  monthAfter,
  monthOf,
  type NewEntry,
  volumeDiscount,
} from "../schema/ledger.ts";
import type { CostLine, Unit } from "../schema/pricing.ts";
import { LazyTables } from "./lazy-tables.ts";
import type { Balance, Discounts, InvoiceData, LedgerQuery, UsageGroup, UsageRow } from "./ledger-contract.ts";

/** Rows of one page of the ledger. */
const PAGE_ROWS_MAX = 1_000;
/** Groups of one answer about usage, and lines of an invoice. */
const GROUPS_MAX = 10_000;

const TABLES = `
CREATE TABLE IF NOT EXISTS ledger (
  seq INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  subject TEXT NOT NULL,
  kind TEXT NOT NULL,
  debit TEXT NOT NULL,
  credit TEXT NOT NULL,
  amount_micros INTEGER NOT NULL,
  unit TEXT,
  quantity INTEGER,
  price_micros INTEGER,
  per INTEGER,
  discount_ppm INTEGER,
  model TEXT,
  version TEXT,
  hardware TEXT,
  token_id TEXT,
  deployment TEXT,
  UNIQUE (subject, kind)
);
CREATE INDEX IF NOT EXISTS ledger_by_time ON ledger (at);
CREATE TABLE IF NOT EXISTS spent (
  scope TEXT NOT NULL,
  period TEXT NOT NULL,
  micros INTEGER NOT NULL,
  PRIMARY KEY (scope, period)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reserved (
  scope TEXT PRIMARY KEY,
  micros INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
  id TEXT PRIMARY KEY,
  micros INTEGER NOT NULL,
  token TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS credits (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  amount_micros INTEGER NOT NULL,
  at INTEGER NOT NULL,
  expires_at INTEGER,
  note TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS terms (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  terms TEXT NOT NULL
);
`;

/** Sorts behind every day. */
const LAST_DAY = "9999-99-99";

/** Rows have their lines flat, so that sums of them need no JSON. */
type LedgerRow = Omit<LedgerEntry, "line"> & {
  unit: Unit | null;
  quantity: number | null;
  price_micros: number | null;
  per: number | null;
  discount_ppm: number | null;
};

/** What each group of usage is in SQL. */
const GROUPS: Record<UsageGroup, string> = {
  day: "date(at / 1000, 'unixepoch')",
  model: "model",
  token: "token_id",
  deployment: "deployment",
  hardware: "hardware",
  unit: "unit",
};

export class AccountLedger implements Books {
  readonly #sql: SqlStorage;
  /** whether an id's end was booked: known by the account's store */
  readonly isSettled: (id: string) => boolean;
  readonly #tables: LazyTables;
  #terms: AccountTerms | null = null;
  #credits: BookedCredit[] | null = null;

  constructor(sql: SqlStorage, isSettled: (id: string) => boolean) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLES, "terms");
    this.isSettled = isSettled;
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
    this.#terms = null;
    this.#credits = null;
  }

  createTables(): void {
    this.#tables.create();
  }

  // ---- terms

  /** Those of the newest admission. */
  terms(): AccountTerms | null {
    if (this.#terms !== null || !this.#tables.exist()) return this.#terms;
    const row = this.#sql.exec<{ terms: string }>("SELECT terms FROM terms").toArray()[0];
    this.#terms = row === undefined ? null : (JSON.parse(row.terms) as AccountTerms);
    return this.#terms;
  }

  /** Written where they changed alone. */
  setTerms(terms: AccountTerms): void {
    const text = JSON.stringify(terms);
    if (JSON.stringify(this.terms()) === text) return;
    this.#sql.exec("INSERT OR REPLACE INTO terms VALUES (1, ?)", text);
    this.#terms = terms;
  }

  // ---- Books

  spentSince(scope: string, period: string): number {
    return this.#sum(
      "SELECT sum(micros) AS sum FROM spent WHERE scope = ? AND period >= ? AND length(period) = ?",
      scope,
      period,
      period.length,
    );
  }

  spentEver(): number {
    return this.#sum("SELECT sum(micros) AS sum FROM spent WHERE scope = ? AND length(period) = 7", ACCOUNT_SCOPE);
  }

  spentIn(from: string, to: string | null): DaySum[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{ day: string; micros: number }>(
        "SELECT period AS day, micros FROM spent WHERE scope = ? AND length(period) = 10 AND period >= ? AND period < ? ORDER BY period",
        ACCOUNT_SCOPE,
        from,
        to ?? LAST_DAY,
      )
      .toArray();
  }

  addSpent(scope: string, day: string, month: string, micros: number): void {
    for (const period of [day, month]) {
      this.#sql.exec(
        "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (scope, period) DO UPDATE SET micros = micros + excluded.micros",
        scope,
        period,
        micros,
      );
    }
  }

  /** Adds to what instances' time came to since the account exists, and answers the sum. */
  addOnline(micros: number): number {
    return this.#sql
      .exec<{ micros: number }>(
        "INSERT INTO spent VALUES ('online', 'ever', ?) ON CONFLICT (scope, period) DO UPDATE SET micros = micros + excluded.micros RETURNING micros",
        micros,
      )
      .one().micros;
  }

  reserved(scope: string): number {
    return this.#sum("SELECT micros AS sum FROM reserved WHERE scope = ?", scope);
  }

  addReserved(scope: string, micros: number): void {
    this.#sql.exec(
      "INSERT INTO reserved VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET micros = micros + excluded.micros",
      scope,
      micros,
    );
  }

  reservation(id: string): Reservation | null {
    if (!this.#tables.exist()) return null;
    const row = this.#sql
      .exec<{ micros: number; token: string | null }>("SELECT micros, token FROM reservations WHERE id = ?", id)
      .toArray()[0];
    if (row === undefined) return null;
    return { micros: row.micros, token: row.token === null ? null : (JSON.parse(row.token) as Reservation["token"]) };
  }

  setReservation(id: string, reservation: Reservation | null): void {
    if (reservation === null) this.#sql.exec("DELETE FROM reservations WHERE id = ?", id);
    else {
      const { micros, token } = reservation;
      const text = token === null ? null : JSON.stringify(token);
      this.#sql.exec("INSERT OR REPLACE INTO reservations VALUES (?, ?, ?)", id, micros, text);
    }
  }

  insert(entry: NewEntry): boolean {
    const { line } = entry;
    const added = this.#sql.exec(
      `INSERT OR IGNORE INTO ledger (at, subject, kind, debit, credit, amount_micros, unit, quantity, price_micros, per, discount_ppm, model, version, hardware, token_id, deployment)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      entry.at,
      entry.subject,
      entry.kind,
      entry.debit,
      entry.credit,
      entry.amount_micros,
      line?.unit ?? null,
      line?.quantity ?? null,
      line?.price_micros ?? null,
      line?.per ?? null,
      line?.discount_ppm ?? null,
      entry.model,
      entry.version,
      entry.hardware,
      entry.token_id,
      entry.deployment,
    );
    return added.rowsWritten > 0;
  }

  hasEntry(subject: string, kind: string): boolean {
    return this.#sql.exec("SELECT 1 FROM ledger WHERE subject = ? AND kind = ?", subject, kind).toArray().length > 0;
  }

  credits(): BookedCredit[] {
    if (this.#credits === null && !this.#tables.exist()) return [];
    this.#credits ??= this.#sql
      .exec<BookedCredit & Record<string, SqlStorageValue>>("SELECT * FROM credits ORDER BY at, id")
      .toArray();
    return this.#credits;
  }

  addCredit({ id, kind, amount_micros, at, expires_at, note }: BookedCredit): void {
    this.#sql.exec("INSERT INTO credits VALUES (?, ?, ?, ?, ?, ?)", id, kind, amount_micros, at, expires_at, note);
    this.#credits = null;
  }

  // ---- reads

  balance(terms: AccountTerms, now: number): Balance {
    if (!this.#tables.exist()) {
      // What its first admission gives it.
      const welcome = { id: "welcome", left_micros: terms.free_credits_micros, expires_at: null };
      const spent = { day_micros: 0, month_micros: 0 };
      const credits = terms.free_credits_micros > 0 ? [welcome] : [];
      return { credits, balance_micros: 0, reserved_micros: 0, spent };
    }
    return {
      ...standing(this, now),
      reserved_micros: this.reserved(ACCOUNT_SCOPE),
      spent: {
        day_micros: this.spentSince(ACCOUNT_SCOPE, dayOf(now)),
        month_micros: this.spentSince(ACCOUNT_SCOPE, monthOf(now)),
      },
    };
  }

  usage({ from, to, group_by }: { from: number; to: number; group_by: UsageGroup[] }): UsageRow[] {
    if (!this.#tables.exist()) return [];
    const groups = [...new Set(group_by)];
    const keys = groups.map((group) => `${GROUPS[group]} AS by_${group}`);
    const rows = this.#sql.exec<Record<string, SqlStorageValue>>(
      `SELECT ${[...keys, AMOUNTS].join(", ")} FROM ledger WHERE at >= ? AND at < ? AND unit IS NOT NULL
        ${groups.length === 0 ? "" : `GROUP BY ${groups.map((group) => `by_${group}`).join(", ")}`}
        ORDER BY ${groups.includes("day") ? "by_day, " : ""}amount_micros DESC LIMIT ${GROUPS_MAX}`,
      from,
      to,
    );
    return rows.toArray().map((row) => ({
      key: Object.fromEntries(groups.map((group) => [group, row[`by_${group}`] as string | null])),
      amount_micros: Number(row["amount_micros"] ?? 0),
      predictions: Number(row["predictions"]),
      time_us: Number(row["time_us"] ?? 0),
    }));
  }

  months(now: number): string[] {
    if (!this.#tables.exist()) return [];
    const rows = this.#sql.exec<{ month: string }>(
      "SELECT DISTINCT strftime('%Y-%m', at / 1000, 'unixepoch') AS month FROM ledger ORDER BY month DESC",
    );
    const months = rows.toArray().map((row) => row.month);
    return months.filter((month) => month <= monthOf(now));
  }

  invoice(month: string, { volume, commitment_micros }: Discounts, now: number): InvoiceData {
    const [from, to] = [month, monthAfter(month)].map((first) => Date.parse(`${first}-01T00:00:00Z`));
    const lines = this.#tables.exist() ? this.#invoiceLines(from ?? 0, to ?? 0) : [];
    const charges_micros = this.#sum(
      "SELECT micros AS sum FROM spent WHERE scope = ? AND period = ?",
      ACCOUNT_SCOPE,
      month,
    );
    const credits = this.credits();
    const usedBefore = (day: string): number =>
      creditUse(credits, (first, last) => this.spentIn(first, last), day).reduce(
        (sum, use) => sum + use.used_micros,
        0,
      );
    const credits_used_micros = usedBefore(`${monthAfter(month)}-01`) - usedBefore(`${month}-01`);
    const given = (kind: BookedCredit["kind"]): number =>
      credits.reduce((sum, credit) => {
        const isIt = credit.kind === kind && monthOf(credit.at) === month;
        return sum + (isIt ? credit.amount_micros : 0);
      }, 0);
    const volume_discount_micros = volumeDiscount(charges_micros, volume);
    const isOver = now >= (to ?? 0);
    const missing = isOver ? commitment_micros - (charges_micros - volume_discount_micros) : 0;
    const commitment_shortfall_micros = Math.max(0, missing);
    const payments_micros = given("payment");
    const adjustments_micros = given("adjustment");
    return {
      month,
      lines,
      charges_micros,
      volume_discount_micros,
      commitment_shortfall_micros,
      credits_used_micros,
      payments_micros,
      adjustments_micros,
      due_micros:
        charges_micros -
        volume_discount_micros +
        commitment_shortfall_micros -
        credits_used_micros -
        payments_micros -
        adjustments_micros,
    };
  }

  #invoiceLines(from: number, to: number): InvoiceData["lines"] {
    const keys = "model, hardware, deployment, unit, price_micros, per, discount_ppm";
    type Line = InvoiceData["lines"][number] & Record<string, SqlStorageValue>;
    return this.#sql
      .exec<Line>(
        `SELECT ${keys}, sum(quantity) AS quantity, ${AMOUNTS} FROM ledger
          WHERE at >= ? AND at < ? AND unit IS NOT NULL GROUP BY ${keys} ORDER BY ${keys} LIMIT ${GROUPS_MAX}`,
        from,
        to,
      )
      .toArray()
      .map(({ time_us: _, ...line }) => line as InvoiceData["lines"][number]);
  }

  page({ after_seq, limit, from, to }: LedgerQuery): { entries: LedgerEntry[]; more: boolean } {
    if (!this.#tables.exist()) return { entries: [], more: false };
    const size = Math.min(limit, PAGE_ROWS_MAX);
    const rows = this.#sql
      .exec<LedgerRow & Record<string, SqlStorageValue>>(
        "SELECT * FROM ledger WHERE seq > ? AND at >= ? AND at < ? ORDER BY seq LIMIT ?",
        after_seq,
        from ?? 0,
        to ?? Number.MAX_SAFE_INTEGER,
        size + 1,
      )
      .toArray();
    return { entries: rows.slice(0, size).map(entryOf), more: rows.length > size };
  }

  #sum(query: string, ...values: (string | number)[]): number {
    if (!this.#tables.exist()) return 0;
    return this.#sql.exec<{ sum: number | null }>(query, ...values).toArray()[0]?.sum ?? 0;
  }
}

/** Of a group of rows. A prediction with lines of several units is one. */
const AMOUNTS = `sum(amount_micros) AS amount_micros,
  count(DISTINCT CASE WHEN subject LIKE 'prediction:%' THEN subject END) AS predictions,
  sum(CASE WHEN unit = 'second' THEN quantity ELSE 0 END) AS time_us`;

function entryOf({ unit, quantity, price_micros, per, discount_ppm, ...row }: LedgerRow): LedgerEntry {
  const line =
    unit === null
      ? null
      : ({ unit, quantity, price_micros, per, discount_ppm, amount_micros: row.amount_micros } as CostLine);
  return { ...row, line };
}
