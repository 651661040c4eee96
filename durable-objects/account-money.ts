/**
 * Moves an account's money: reserves for what begins, books what ended, expires credits, and has caps watched wherever money moved. Everything here runs
 * inside a commit of the account's; what is decided is in schema/budgets.ts, where it is kept in account-ledger.ts.
 */
import { ACCOUNT_SCOPE, book, bookCredit, expire, release, reserve, welcome } from "../schema/budgets.ts";
import { dayOf, monthOf } from "../schema/ledger.ts";
import type { AccountAlerts } from "./account-alerts.ts";
import type { AccountApi, Settlement } from "./account-contract.ts";
import type { AccountLedger } from "./account-ledger.ts";
import type {
  AccountTerms,
  Balance,
  Charge,
  CreditEntry,
  OnlineCharge,
  SpendRefusal,
  SpendRequest,
} from "./ledger-contract.ts";

export interface MoneyHost {
  ledger: AccountLedger;
  alerts: AccountAlerts;
  /** An alert was recorded: it is sent at this time, or with an earlier one. */
  alertsAt(time: number): void;
  /** The next credit ends then. */
  creditsAt(time: number): void;
}

export class AccountMoney {
  readonly #host: MoneyHost;
  readonly #ledger: AccountLedger;

  constructor(host: MoneyHost) {
    this.#host = host;
    this.#ledger = host.ledger;
  }

  /** Takes the terms that an admission brings, and reserves. */
  hold(id: string, spend: SpendRequest, now: number): SpendRefusal | null {
    this.#ledger.createTables();
    this.#ledger.setTerms(spend.terms);
    if (welcome(this.#ledger, spend.terms, now)) this.expireCredits(now);
    const refusal = reserve(this.#ledger, id, spend.reserve_micros, spend, now);
    if (refusal !== null) this.#watchCaps(spend.token, refusal, now);
    return refusal;
  }

  /** Holds in all so much for each; without `spend` on the terms and the token that it has. */
  holdMore(requests: Parameters<AccountApi["hold"]>[0], now: number): (SpendRefusal | null)[] {
    return requests.map(({ id, reserve_micros, spend }) => {
      if (spend !== undefined) return this.hold(id, { ...spend, reserve_micros }, now);
      const terms = this.#ledger.terms();
      const token = this.#ledger.reservation(id)?.token ?? null;
      return terms === null ? null : reserve(this.#ledger, id, reserve_micros, { terms, token }, now);
    });
  }

  /** What was held for it is free again, and nothing is booked. */
  free(id: string): void {
    release(this.#ledger, id);
  }

  /** It ended: what was held for it is free again, and what it cost is booked. */
  settle({ prediction_id, charge }: Settlement, now: number): void {
    const token = this.#ledger.reservation(prediction_id)?.token ?? null;
    release(this.#ledger, prediction_id);
    if (charge === undefined) return;
    this.#book(charge);
    this.#watchCaps(token, null, now);
  }

  /** Books the time of instances that are paid by the hour, and holds for the next of it. */
  charge(charges: OnlineCharge[]): { refusal: SpendRefusal | null; onlineMicros: number } {
    let refusal: SpendRefusal | null = null;
    let added = 0;
    for (const { hold, ...charge } of charges) {
      added += this.#book(charge);
      this.#watchCaps(null, null, Date.now());
      if (hold === undefined) continue;
      // What was held was for what is booked now.
      release(this.#ledger, hold.id);
      const terms = this.#ledger.terms();
      if (hold.micros === 0 || terms === null) continue;
      const { model, deployment } = charge;
      const spend = { reserve_micros: hold.micros, terms, token: null, model, deployment };
      const refused = this.hold(hold.id, spend, Date.now());
      refusal ??= refused;
    }
    return { refusal, onlineMicros: this.#ledger.addOnline(added) };
  }

  setTerms(terms: AccountTerms): void {
    this.#ledger.createTables();
    this.#ledger.setTerms(terms);
  }

  credit(entry: CreditEntry, terms: AccountTerms, now: number): Balance {
    this.setTerms(terms);
    bookCredit(this.#ledger, entry, now);
    this.expireCredits(now);
    return this.#ledger.balance(terms, now);
  }

  /** Credits whose end has come are booked out; the next end rings. */
  expireCredits(now: number): void {
    const next = expire(this.#ledger, now);
    if (next !== null) this.#host.creditsAt(next);
  }

  #book(charge: Charge): number {
    this.#ledger.createTables();
    return book(this.#ledger, charge);
  }

  /** Money moved, or a cap refused some: thresholds that were reached are told. */
  #watchCaps(token: SpendRequest["token"], refusal: SpendRefusal | null, now: number): void {
    const terms = this.#ledger.terms();
    if (terms === null) return;
    const caps = [
      { scope: ACCOUNT_SCOPE, budget: terms.budget },
      ...(token?.budget == null ? [] : [{ scope: `token:${token.id}`, budget: token.budget }]),
    ];
    for (const { scope, budget } of caps) {
      if (budget.day_micros === null && budget.month_micros === null) continue;
      const spent = {
        day_micros: this.#ledger.spentSince(scope, dayOf(now)),
        month_micros: this.#ledger.spentSince(scope, monthOf(now)),
      };
      const refused = refusal?.cap?.scope === scope ? refusal.cap.length : undefined;
      const isNew = this.#host.alerts.check({ scope, budget, spent, refused }, terms.alert_webhook, now);
      if (isNew) this.#host.alertsAt(now);
    }
  }
}
