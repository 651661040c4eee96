/** An account's money in memory: what the AccountObject keeps in SQLite, for tests and the simulator. */
import { ACCOUNT_SCOPE, type Books, type Reservation } from "../budgets.ts";
import type { BookedCredit, DaySum, LedgerEntry, NewEntry } from "../ledger.ts";

export class MemoryBooks implements Books {
  readonly entries: LedgerEntry[] = [];
  readonly settled = new Set<string>();
  readonly #keys = new Set<string>();
  /** scope -> day or month -> micros */
  readonly #spent = new Map<string, Map<string, number>>();
  readonly #reserved = new Map<string, number>();
  readonly #reservations = new Map<string, Reservation>();
  readonly #credits: BookedCredit[] = [];

  #periods(scope: string, length: number): [string, number][] {
    return [...(this.#spent.get(scope) ?? [])].filter(([period]) => period.length === length);
  }

  spentSince(scope: string, period: string): number {
    return this.#periods(scope, period.length).reduce((sum, [at, micros]) => sum + (at >= period ? micros : 0), 0);
  }

  spentEver(): number {
    return this.#periods(ACCOUNT_SCOPE, 7).reduce((sum, [, micros]) => sum + micros, 0);
  }

  spentIn(from: string, to: string | null): DaySum[] {
    return this.#periods(ACCOUNT_SCOPE, 10)
      .filter(([day]) => day >= from && (to === null || day < to))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([day, micros]) => ({ day, micros }));
  }

  addSpent(scope: string, day: string, month: string, micros: number): void {
    const periods = this.#spent.get(scope) ?? new Map<string, number>();
    for (const period of [day, month]) periods.set(period, (periods.get(period) ?? 0) + micros);
    this.#spent.set(scope, periods);
  }

  reserved(scope: string): number {
    return this.#reserved.get(scope) ?? 0;
  }

  addReserved(scope: string, micros: number): void {
    this.#reserved.set(scope, this.reserved(scope) + micros);
  }

  reservation(id: string): Reservation | null {
    return this.#reservations.get(id) ?? null;
  }

  setReservation(id: string, reservation: Reservation | null): void {
    if (reservation === null) this.#reservations.delete(id);
    else this.#reservations.set(id, reservation);
  }

  isSettled(id: string): boolean {
    return this.settled.has(id);
  }

  insert(entry: NewEntry): boolean {
    const key = `${entry.subject} ${entry.kind}`;
    if (this.#keys.has(key)) return false;
    this.#keys.add(key);
    this.entries.push({ ...entry, seq: this.entries.length + 1 });
    return true;
  }

  hasEntry(subject: string, kind: string): boolean {
    return this.#keys.has(`${subject} ${kind}`);
  }

  credits(): BookedCredit[] {
    return this.#credits;
  }

  addCredit(credit: BookedCredit): void {
    this.#credits.push(credit);
  }
}
