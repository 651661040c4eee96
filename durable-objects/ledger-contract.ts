/**
 * What the AccountObject is asked about money (part of AccountApi): plain data over native RPC, micro-dollars throughout. Spending is reserved in the
 * transaction of the admission and booked in that of the settlement, so no burst passes a cap.
 */
import type { CostLine } from "../schema/pricing.ts";

/** A cap on what is spent in a calendar day and month (UTC). Null is no cap. */
export interface Budget {
  day_micros: number | null;
  month_micros: number | null;
}

/** What an account's row says about money; goes along with each admission, since no object reads D1. */
export interface AccountTerms {
  /** `prepaid`: nothing runs that its credits and payments do not cover */
  billing: "postpaid" | "prepaid";
  budget: Budget;
  /** called (signed as the account's other webhooks) at 50, 80 and 100 % of each cap, and about deployments left idle */
  alert_webhook: string | null;
  /** one-time credits of a new account; granted by its first admission */
  free_credits_micros: number;
}

/** Of an admission: what it may cost at most, and against what that is held. */
export interface SpendRequest {
  /** 0 for what costs nothing here */
  reserve_micros: number;
  terms: AccountTerms;
  /** the token's id (schema/tokens.ts) and its own cap; null for what no token asked for */
  token: { id: string; budget: Budget | null } | null;
  model: string;
  deployment: string | null;
}

/** Why spending was refused, for a 402. `resets_at`: when the cap's day or month ends; null for a balance. */
export interface SpendRefusal {
  kind: "over_budget";
  code: "billing.budget_exceeded" | "billing.balance_exhausted";
  detail: string;
  resets_at: number | null;
}

/** What is to be booked of one ended prediction, or of a piece of an instance's online time. Idempotent by `subject` and the line's unit. */
export interface Charge {
  /** `prediction:<id>`, `instance:<id>:<hour>` … */
  subject: string;
  /** when it ended: decides its day and invoice */
  at: number;
  model: string;
  version: string;
  hardware: string;
  token_id: string | null;
  deployment: string | null;
  lines: CostLine[];
}

export interface LedgerEntry {
  /** rises by one */
  seq: number;
  at: number;
  /** names the entry for ever: subject and kind, such as `prediction:<id>` and `second` */
  subject: string;
  kind: string;
  /** double entry: what `debit` owes more and `credit` less. Such as `customer` and `revenue:active` */
  debit: string;
  credit: string;
  amount_micros: number;
  line: CostLine | null;
  model: string | null;
  version: string | null;
  hardware: string | null;
  token_id: string | null;
  deployment: string | null;
}

export type UsageGroup = "day" | "model" | "token" | "deployment" | "hardware" | "unit";

export interface UsageRow {
  /** by the groups that were asked for */
  key: Partial<Record<UsageGroup, string | null>>;
  amount_micros: number;
  predictions: number;
  /** microseconds of paid time */
  time_us: number;
}

export interface Balance {
  /** free credits that are left and when they end, next to end first */
  credits: { id: string; left_micros: number; expires_at: number | null }[];
  /** payments less what was charged beyond credits; negative is owed */
  balance_micros: number;
  reserved_micros: number;
  spent: { day_micros: number; month_micros: number };
}

export interface InvoiceData {
  /** `2026-11` */
  month: string;
  /** equal lines are one: by model, hardware, deployment, unit, price and discount */
  lines: (Omit<CostLine, "amount_micros"> & {
    model: string | null;
    hardware: string | null;
    deployment: string | null;
    predictions: number;
    amount_micros: number;
  })[];
  charges_micros: number;
  /** volume discount on the month's charges, and what is missing to a commitment */
  volume_discount_micros: number;
  commitment_shortfall_micros: number;
  credits_used_micros: number;
  payments_micros: number;
  due_micros: number;
}

/** A grant of free credits, a payment, or a correction by the operator. Idempotent by id. */
export interface CreditEntry {
  id: string;
  kind: "free" | "payment" | "adjustment";
  amount_micros: number;
  expires_at: number | null;
  note: string;
}

export interface LedgerApi {
  /** Books charges that no prediction's settlement brings: online time of instances. */
  charge(charges: Charge[]): Promise<void>;
  /**
   * More for a running prediction whose cost nears what is reserved for it. False: a cap is reached, and it shall be stopped. Idempotent by (id, reserve_micros): the new total.
   */
  extendReservation(predictionId: string, reserve_micros: number): Promise<boolean>;
  credit(entry: CreditEntry, terms: AccountTerms): Promise<Balance>;
  balance(terms: AccountTerms): Promise<Balance>;
  usage(query: { from: number; to: number; group_by: UsageGroup[] }): Promise<UsageRow[]>;
  /** `discounts`: graduated volume discount, and the month's commitment */
  invoice(
    month: string,
    discounts: { volume: { from_micros: number; discount_ppm: number }[]; commitment_micros: number },
  ): Promise<InvoiceData>;
  months(): Promise<string[]>;
  ledger(query: { after_seq: number; limit: number }): Promise<{ entries: LedgerEntry[]; more: boolean }>;
}
