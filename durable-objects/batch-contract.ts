/** What a BatchObject is asked, by the Worker and by PredictionObjects: plain data over native RPC, as in prediction-contract.ts. */
import type { BatchDocument } from "../schema/batches.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import type { Rates } from "../schema/pricing.ts";
import type { SpendRequest } from "./ledger-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";

/** One input of a batch has ended. Idempotent by index. */
export interface BatchSettlement {
  index: number;
  prediction_id: string;
  document: PredictionDocument;
}

/** How all inputs of a batch run; resolved by the Worker. */
export interface CreateBatch {
  id: string;
  account_id: string;
  spec: RunSpec;
  shown_version: string;
  stream_kind: "text" | "files";
  source: "api" | "web";
  max_concurrency: number;
  /** milliseconds after its end; null is forever */
  retention_ms: number | null;
  created_at: number;
  /** the prices of its creation. Absent: free */
  rates?: Rates;
  /** what each input must be allowed before it starts. Absent: nothing bounds what is spent */
  spend?: SpendRequest;
  /** id of the token that created it */
  token_id?: string | null;
  /** W3C traceparent of the request that made it: says whether somebody wants spans. Its inputs have traces of their own, since one of them all would be too large to be shown */
  traceparent?: string | null;
}

/** A validated input, in its place. */
export interface BatchInput {
  index: number;
  custom_id: string | null;
  input: Record<string, unknown>;
  /** with secrets redacted; null when equal */
  shown_input: Record<string, unknown> | null;
  log_lines: string[];
}

export interface BatchApi {
  /** Begins loading; idempotent. Nobody sees it before it is sealed. */
  create(request: CreateBatch): Promise<void>;
  /** Idempotent by index. */
  append(inputs: BatchInput[]): Promise<void>;
  /** All inputs are there: it runs from now on. */
  seal(): Promise<BatchDocument>;
  /** The inputs were refused: nothing is left. */
  drop(): Promise<void>;
  /** null: no such batch of this account. */
  get(accountId: string): Promise<BatchDocument | null>;
  /** What waits ends at once; answers when what runs has ended, after 10 s at the latest. */
  cancel(accountId: string): Promise<BatchDocument | null>;
  /** Predictions that its inputs became, from the index `from` on; `next` is where to go on, null at the end. None for another account. */
  predictions(accountId: string, from: number, limit: number): Promise<{ ids: string[]; next: number | null }>;
  /** Its account goes: inputs, names and results go now, and its counts stay. False while it runs still. */
  erase(accountId: string): Promise<boolean>;
  /** From PredictionObjects' outboxes, told at least once. */
  settled(settlements: BatchSettlement[]): Promise<void>;
}
