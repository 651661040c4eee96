/**
 * What the AccountObject is asked about money (part of AccountApi): plain data over native RPC, micro-dollars throughout. Spending is reserved in the
 * transaction of the admission and booked in that of the settlement, so no burst passes a cap.
 */
import type { SpendRefusal, SpendRequest } from "../schema/budgets.ts";
import type { AccountTerms, Charge, CreditEntry, LedgerEntry, UsageGroup, VolumeTier } from "../schema/ledger.ts";
import type { CostLine } from "../schema/pricing.ts";

export type { SpendRefusal, SpendRequest } from "../schema/budgets.ts";
export type {
  AccountTerms,
  Charge,
  CreditEntry,
  LedgerEntry,
  UsageGroup,
  VolumeTier,
} from "../schema/ledger.ts";

export interface UsageRow {
  /** by the groups that were asked for */
  key: Partial<Record<UsageGroup, string | null>>;
  amount_micros: number;
  /** charged predictions, trainings and inputs of batches; those that cost nothing are in no ledger */
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
    /** the sum of rows of the ledger, each rounded by itself */
    amount_micros: number;
  })[];
  charges_micros: number;
  /** graduated, on the month's charges */
  volume_discount_micros: number;
  /** what is missing to a commitment; 0 while the month runs */
  commitment_shortfall_micros: number;
  credits_used_micros: number;
  payments_micros: number;
  /** corrections by the operator in this month; positive is in the account's favour */
  adjustments_micros: number;
  due_micros: number;
}

export interface Discounts {
  volume: VolumeTier[];
  commitment_micros: number;
}

export interface LedgerQuery {
  after_seq: number;
  limit: number;
  from?: number;
  to?: number;
}

/** A piece of an instance's online time, whose next piece may be reserved with it. */
export interface OnlineCharge extends Charge {
  /** absent: nothing is reserved. `micros` is held for `id` from now on, against the account's caps; 0 ends it */
  hold?: { id: string; micros: number };
}

export interface LedgerApi {
  /**
   * Books charges that no prediction's settlement brings: online time of instances. Idempotent. Answers the first cap that does not allow what shall be held
   * next; what was spent is booked all the same.
   */
  charge(charges: OnlineCharge[]): Promise<SpendRefusal | null>;
  /**
   * Holds so much in all for each prediction or instance: inputs of a batch before they start, a running prediction whose cost nears what is held for it. A
   * refused one stays as it was. Idempotent. Without `spend` the terms and the token of its admission count.
   */
  hold(requests: { id: string; reserve_micros: number; spend?: SpendRequest }[]): Promise<(SpendRefusal | null)[]>;
  /** Terms that changed count at once for what is held, and for alerts. */
  setTerms(terms: AccountTerms): Promise<void>;
  credit(entry: CreditEntry, terms: AccountTerms): Promise<Balance>;
  balance(terms: AccountTerms): Promise<Balance>;
  /** Charges from `from` to before `to` (epoch milliseconds). */
  usage(query: { from: number; to: number; group_by: UsageGroup[] }): Promise<UsageRow[]>;
  /** `discounts`: graduated volume discount, and the month's commitment */
  invoice(month: string, discounts: Discounts): Promise<InvoiceData>;
  /** months with charges or credits, newest first */
  months(): Promise<string[]>;
  /** In the order of booking. `from` and before `to` (epoch milliseconds) by the time of what is booked. */
  ledger(query: LedgerQuery): Promise<{ entries: LedgerEntry[]; more: boolean }>;
}
