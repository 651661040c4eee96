/** What the AccountObject is asked, by the Worker and by other objects: plain data over native RPC, as in prediction-contract.ts. */
import type { StoredFile } from "../schema/files.ts";
import type { Meter, PredictionDocument } from "../schema/prediction-document.ts";
import type { WebhookError, WebhookEvent } from "../schema/webhooks.ts";
import type { AlertsApi } from "./alerts-contract.ts";
import type { Charge, LedgerApi, SpendRefusal, SpendRequest } from "./ledger-contract.ts";

/** What an account's lists show, one kind each. */
export type ListKind = "prediction" | "training" | "batch";

export interface AdmitRequest {
  kind: ListKind;
  /** id of the prediction, training or batch */
  prediction_id: string;
  created_at: number;
  /** names the list row until the prediction ends */
  model: string;
  version: string;
  source: "api" | "web";
  idempotency: { key: string; body_sha256: string } | null;
  limits: AccountLimits;
  /** exempt from the create limit: the operator's own example runs */
  exempt?: boolean;
  /** absent: costs nothing */
  spend?: SpendRequest;
}

export interface AccountLimits {
  /** token bucket: rate and burst; 600 unless the account's `limits` raise it */
  creates_per_minute: number;
}

export type AdmitResult =
  | { kind: "admitted"; remaining: number; reset_s: number }
  | { kind: "limited"; retry_after_ms: number; limit: number }
  | SpendRefusal
  /** same key, same body, answered before: `response` is to be replayed byte for byte */
  | {
      kind: "replay";
      prediction_id: string;
      response: { status: number; headers: [string, string][]; body: string };
      /**
       * Present when the body is not kept: its data was removed (`document` is the data_removed one), it was above 256 KiB, or the first request
       * ended without an answer. The caller renders `document` (null: what the PredictionObject has now) with the status and headers.
       */
      render?: { document: PredictionDocument | null };
    }
  /** same key, same body, the first request is still unanswered */
  | { kind: "in_flight"; prediction_id: string; retry_after_ms: number }
  | { kind: "key_reused" };

/** One line of the end of a prediction. Idempotent by id. */
export interface Settlement {
  prediction_id: string;
  /** public document up to 16 KiB of JSON; null when larger: pages then read the PredictionObject */
  document: PredictionDocument | null;
  meter: Meter;
  is_listed: boolean;
  /** what it costs, booked in the same transaction, in which its reservation ends. Absent: nothing */
  charge?: Charge;
}

export interface ListRow {
  prediction_id: string;
  created_at: number;
  /** the stored end; null while live or when too large */
  document: PredictionDocument | null;
}

export interface AccountApi extends LedgerApi, AlertsApi {
  /** One transaction: limit, idempotency, list row. An admission not confirmed in 30 s is checked against its PredictionObject, then unlisted. */
  admit(request: AdmitRequest): Promise<AdmitResult>;
  /** The answer of a create with an Idempotency-Key, kept 24 h for replays. */
  answered(
    idempotencyKey: string,
    response: { status: number; headers: [string, string][]; body: string },
  ): Promise<void>;
  /** The create failed after admission (refused, or the object could not be reached): unlist, free the key. */
  unadmit(predictionId: string): Promise<void>;
  /** From PredictionObjects' outboxes, batched. */
  settle(settlements: Settlement[]): Promise<void>;
  /** Data removed: the list row's copy too. `document` is the data_removed one. */
  removeData(documents: PredictionDocument[]): Promise<void>;
  /** The list's copy is out of date: pages ask the PredictionObject from now on. */
  dropDocument(predictionId: string): Promise<void>;
  /** The document of an ended prediction in the list, as far as it is held here; null otherwise. */
  document(predictionId: string): Promise<PredictionDocument | null>;
  /**
   * Newest first. `before` is the last row (created_at, prediction_id) of the page before this one; `after` is the first row of the page after it:
   * then `more` says whether there are newer rows still.
   */
  list(query: {
    kind: ListKind;
    limit: number;
    before?: { created_at: number; prediction_id: string } | null;
    after?: { created_at: number; prediction_id: string } | null;
    created_after?: number | null;
    created_before?: number | null;
    source?: "web" | null;
  }): Promise<{ rows: ListRow[]; more: boolean }>;
  meters(limit: number): Promise<{ prediction_id: string; meter: Meter }[]>;
  /** What its webhooks are signed with: the key, and for a day after a rotation the ones before it. Made by the first call. */
  webhookKeys(): Promise<{ keys: string[] }>;
  rotateWebhookKey(): Promise<{ key: string; previous_valid_until: number }>;
  /** One signed call of a receiver, at most 10 a minute. */
  testWebhook(test: { url: string; event: WebhookEvent; body: string }): Promise<WebhookTestResult>;
  /** Before the first byte of a file goes to R2. Idempotent by id. False when too many uploads are unfinished. */
  beginFile(begin: BeginFile): Promise<boolean>;
  /** All of a file is in R2. Null when its upload is not known (any more): the caller takes the bytes back. Again for a whole file: the same. */
  finishFile(id: string, file: FinishFile): Promise<StoredFile | null>;
  file(id: string): Promise<StoredFile | null>;
  /** Newest first; `before` and `after` as in `list`. */
  files(query: FileQuery): Promise<{ files: StoredFile[]; more: boolean }>;
  /** From now on there is no such file, or upload (`pending`); its bytes go behind the answer. False when there was none. */
  removeFile(id: string, state: "pending" | "ready"): Promise<boolean>;
  /** The ids of these that are files of the account: each is kept until `until` at least, since something will read it. */
  keepFiles(ids: string[], until: number): Promise<string[]>;
  /** An unfinished upload in parts. */
  upload(id: string): Promise<FileUpload | null>;
  /** A part is in R2. False when there is no such upload. */
  keepPart(id: string, part: number, etag: string): Promise<boolean>;
}

/** What is said of a file before it is there. */
export interface FileIntent {
  name: string;
  content_type: string;
  size_bytes: number;
  /** lower-case hex; null when not told */
  sha256: string | null;
  metadata: Record<string, unknown>;
  /** milliseconds after it is whole; null is forever */
  retention_ms: number | null;
}

export interface BeginFile {
  id: string;
  created_at: number;
  /** R2's multipart upload; null when the file is put at once */
  upload_id: string | null;
  /** of an upload in parts, which later requests finish */
  file: FileIntent | null;
}

export type FinishFile = FileIntent & { sha256: string; md5: string };

export interface FileUpload {
  id: string;
  created_at: number;
  /** then it is given up */
  expires_at: number;
  upload_id: string;
  file: FileIntent;
  /** those that are in R2, in order */
  parts: { part: number; etag: string }[];
}

export interface FileQuery {
  limit: number;
  before?: FilePosition | null;
  after?: FilePosition | null;
}

export interface FilePosition {
  created_at: number;
  file_id: string;
}

export type WebhookTestResult =
  | { kind: "called"; id: string; status: number | null; duration_ms: number; error: WebhookError | null }
  | { kind: "limited"; retry_after_ms: number };
