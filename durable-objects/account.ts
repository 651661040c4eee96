/**
 * Owns one account: whether it may create another prediction and spend on it, its idempotency keys, the list of its predictions, and its ledger.
 *
 * Admission comes first and the prediction second, so a create that dies in between leaves a row without a prediction:
 *
 * | what happened                           | what clears it                                                    |
 * | --------------------------------------- | ----------------------------------------------------------------- |
 * | the create was refused after admission  | the Worker calls `unadmit`                                         |
 * | the Worker died in between              | after 30 s the PredictionObject is asked, and knows nothing of it; |
 * |                                         | what R2 holds of it goes too                                       |
 * | it was only slow, and created later     | `settle` lists it again                                            |
 */
import { DurableObject } from "cloudflare:workers";
import type { StoredFile } from "../schema/files.ts";
import { predictionObjectName } from "../schema/ids.ts";
import type { Meter, PredictionDocument } from "../schema/prediction-document.ts";
import { takeOne } from "../schema/rate-limit.ts";
import type { WebhookEvent } from "../schema/webhooks.ts";
import { AccountAlerts } from "./account-alerts.ts";
import type {
  AccountApi,
  AdmitRequest,
  AdmitResult,
  BeginFile,
  FileQuery,
  FileUpload,
  FinishFile,
  ListRow,
  Settlement,
  WebhookTestResult,
} from "./account-contract.ts";
import { AccountFiles, removeBytes } from "./account-files.ts";
import { AccountLedger } from "./account-ledger.ts";
import { AccountMoney } from "./account-money.ts";
import { AccountStore, type IdempotencyRow } from "./account-store.ts";
import { AccountWebhooks } from "./account-webhooks.ts";
import { Alarms } from "./alarms.ts";
import type { ForsakenModel, IdleDeployment } from "./alerts-contract.ts";
import { GroupCommit } from "./group-commit.ts";
import type {
  AccountTerms,
  Balance,
  CreditEntry,
  Discounts,
  InvoiceData,
  LedgerEntry,
  LedgerQuery,
  OnlineCharge,
  SpendRefusal,
  UsageRow,
} from "./ledger-contract.ts";
import { removeObjects } from "./prediction-document.ts";
import { batchStub, predictionStub } from "./stubs.ts";

/** Keys are promised for this long. */
const IDEMPOTENCY_TTL_MS = 86_400_000;
/** A create answers within its sync wait of 60 s; a first request that is older has died and will never answer. */
const FIRST_REQUEST_MAX_MS = 90_000;
/** A first request answers within moments of its prediction's end; where that is longer ago, it has died and its key is good for a repeat. */
const ANSWER_AFTER_END_MS = 5_000;
/** What a caller is told while the first request with its key is unanswered. */
const IN_FLIGHT_RETRY_MS = 1_000;
/** A create that takes longer than this between admission and prediction has died. */
const CONFIRM_AFTER_MS = 30_000;
/** Admissions checked by one alarm; the rest follow in the next. */
const CONFIRM_BATCH_MAX = 500;
/** How far back the list goes when only predictions made on the web page are asked for. */
const WEB_LIST_MS = 14 * 86_400_000;

export class AccountObject extends DurableObject<Env> implements AccountApi {
  #name: string | null = null;
  readonly #store = new AccountStore(this.ctx.storage.sql);
  readonly #files = new AccountFiles(this.ctx.storage.sql);
  readonly #webhooks = new AccountWebhooks(this.ctx.storage.sql);
  readonly #ledger = new AccountLedger(this.ctx.storage.sql, (id) => this.#store.isSettled(id));
  readonly #alerts = new AccountAlerts(this.ctx.storage.sql);
  readonly #alarms = new Alarms<"confirm" | "files" | "credits" | "alerts">(this.ctx.storage);
  readonly #money = new AccountMoney({
    ledger: this.#ledger,
    alerts: this.#alerts,
    alertsAt: (time) => this.#alarms.setNoLaterThan("alerts", time),
    creditsAt: (time) => this.#alarms.set("credits", time),
  });
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#store.forget();
    this.#ledger.forget();
    this.#alerts.forget();
    this.#files.forget();
    this.#alarms.forget();
  });

  admit(request: AdmitRequest): Promise<AdmitResult> {
    return this.#writes.run(() => this.#admit(request, Date.now()));
  }

  #admit(request: AdmitRequest, now: number): AdmitResult {
    this.#store.createTables();
    if (request.idempotency !== null) {
      const claim = this.#store.key(request.idempotency.key);
      if (claim !== null && claim.created_at > now - IDEMPOTENCY_TTL_MS) {
        return this.#repeated(claim, request.idempotency.body_sha256, now);
      }
    }
    const limit = request.limits.creates_per_minute;
    const fullAt = this.#store.fullAt();
    const taken = request.exempt
      ? ({ kind: "admitted", fullAt, remaining: limit, reset_s: 0 } as const)
      : takeOne(fullAt, limit, now);
    if (taken.kind === "limited") return { kind: "limited", retry_after_ms: taken.retry_after_ms, limit };
    const refusal = request.spend === undefined ? null : this.#money.hold(request.prediction_id, request.spend, now);
    if (refusal !== null) return refusal;

    this.#store.setFullAt(this.#accountId(), taken.fullAt);
    if (request.idempotency !== null) {
      const { key, body_sha256 } = request.idempotency;
      this.#store.claimKey(key, body_sha256, request.prediction_id, now, now - IDEMPOTENCY_TTL_MS);
    }
    this.#store.insert(request.prediction_id, request.created_at, request.kind, request.source, now);
    if (this.#alarms.get("confirm") === null) this.#alarms.set("confirm", now + CONFIRM_AFTER_MS);
    return { kind: "admitted", remaining: taken.remaining, reset_s: taken.reset_s };
  }

  /** The answer to a create whose key is taken. */
  #repeated(claim: IdempotencyRow, bodySha256: string, now: number): AdmitResult {
    const { prediction_id, answer } = claim;
    if (claim.body_sha256 !== bodySha256) return { kind: "key_reused" };
    if (answer === null) {
      const document = this.#store.document(prediction_id);
      const endedAt = document?.completed_at ?? now;
      if (now < Math.min(claim.created_at + FIRST_REQUEST_MAX_MS, endedAt + ANSWER_AFTER_END_MS)) {
        return { kind: "in_flight", prediction_id, retry_after_ms: IN_FLIGHT_RETRY_MS };
      }
      return { kind: "replay", prediction_id, response: { status: 201, headers: [], body: "" }, render: { document } };
    }
    const response = { status: answer.status, headers: answer.headers, body: answer.body ?? "" };
    if (answer.body !== null) return { kind: "replay", prediction_id, response };
    return { kind: "replay", prediction_id, response, render: { document: this.#store.document(prediction_id) } };
  }

  answered(
    idempotencyKey: string,
    response: { status: number; headers: [string, string][]; body: string },
  ): Promise<void> {
    return this.#writes.run(() => this.#store.saveAnswer(idempotencyKey, response));
  }

  unadmit(predictionId: string): Promise<void> {
    return this.#writes.run(() => {
      // One that ended meanwhile was there after all.
      if (this.#store.remove(predictionId, true)) this.#money.free(predictionId);
    });
  }

  settle(settlements: Settlement[]): Promise<void> {
    return this.#writes.run(() => {
      this.#store.createTables();
      const now = Date.now();
      for (const settlement of settlements) {
        if (!this.#store.settle(settlement, now)) continue;
        this.#money.settle(settlement, now);
      }
    });
  }

  removeData(documents: PredictionDocument[]): Promise<void> {
    return this.#writes.run(() => {
      this.#store.createTables();
      for (const document of documents) this.#store.replaceDocument(document);
    });
  }

  dropDocument(predictionId: string): Promise<void> {
    return this.#writes.run(() => this.#store.dropDocument(predictionId));
  }

  async document(predictionId: string): Promise<PredictionDocument | null> {
    return this.#store.document(predictionId);
  }

  async list(query: Parameters<AccountApi["list"]>[0]): Promise<{ rows: ListRow[]; more: boolean }> {
    if (query.source !== "web") return this.#store.list(query);
    const oldest = Date.now() - WEB_LIST_MS;
    return this.#store.list({ ...query, created_after: Math.max(query.created_after ?? 0, oldest) });
  }

  async meters(limit: number): Promise<{ prediction_id: string; meter: Meter }[]> {
    return this.#store.meters(limit);
  }

  // ---- alerts

  deploymentIdle(idle: IdleDeployment): Promise<void> {
    return this.#writes.run(() => {
      const now = Date.now();
      this.#keepName();
      const webhook = this.#ledger.terms()?.alert_webhook ?? null;
      if (this.#alerts.idle(idle, webhook, now)) this.#alarms.setNoLaterThan("alerts", now);
    });
  }

  modelUnhealthy(model: ForsakenModel, webhook: string | null): Promise<void> {
    return this.#writes.run(() => {
      const now = Date.now();
      this.#keepName();
      if (this.#alerts.unhealthy(model, webhook, now)) this.#alarms.setNoLaterThan("alerts", now);
    });
  }

  deploymentBusy(deployment: string): Promise<void> {
    return this.#writes.run(() => this.#alerts.busy(deployment));
  }

  async alerts(): ReturnType<AccountApi["alerts"]> {
    return this.#alerts.list();
  }

  async #sendAlerts(): Promise<void> {
    const { keys } = await this.webhookKeys();
    await this.#alerts.send(keys, (change) => this.#writes.run(change));
    await this.#writes.run(() => {
      const due = this.#alerts.nextDue();
      if (due !== null) this.#alarms.setNoLaterThan("alerts", due);
    });
  }

  // ---- money

  /** What was booked counts for metrics before it is answered: where that fails, the whole is told again, and the sum is the same. */
  async charge(charges: OnlineCharge[]): Promise<SpendRefusal | null> {
    const { refusal, onlineMicros } = await this.#writes.run(() => this.#money.charge(charges));
    if (charges.some(({ lines }) => lines.length > 0)) {
      const accountId = this.#accountId();
      await predictionStub(this.env, accountId).countOnline(accountId, onlineMicros);
    }
    return refusal;
  }

  hold(requests: Parameters<AccountApi["hold"]>[0]): Promise<(SpendRefusal | null)[]> {
    return this.#writes.run(() => this.#money.holdMore(requests, Date.now()));
  }

  setTerms(terms: AccountTerms): Promise<void> {
    return this.#writes.run(() => {
      this.#keepName();
      this.#money.setTerms(terms);
    });
  }

  credit(entry: CreditEntry, terms: AccountTerms): Promise<Balance> {
    return this.#writes.run(() => {
      this.#keepName();
      return this.#money.credit(entry, terms, Date.now());
    });
  }

  async balance(terms: AccountTerms): Promise<Balance> {
    return this.#ledger.balance(terms, Date.now());
  }

  async usage(query: Parameters<AccountApi["usage"]>[0]): Promise<UsageRow[]> {
    return this.#ledger.usage(query);
  }

  async invoice(month: string, discounts: Discounts): Promise<InvoiceData> {
    return this.#ledger.invoice(month, discounts, Date.now());
  }

  async months(): Promise<string[]> {
    return this.#ledger.months(Date.now());
  }

  async ledger(query: LedgerQuery): Promise<{ entries: LedgerEntry[]; more: boolean }> {
    return this.#ledger.page(query);
  }

  // ---- files

  beginFile(begin: BeginFile): Promise<boolean> {
    return this.#writeFiles(() => this.#files.begin(begin));
  }

  finishFile(id: string, file: FinishFile): Promise<StoredFile | null> {
    return this.#writeFiles((now) => this.#files.finish(id, file, now));
  }

  async file(id: string): Promise<StoredFile | null> {
    return this.#files.get(id, Date.now());
  }

  async files(query: FileQuery): Promise<{ files: StoredFile[]; more: boolean }> {
    return this.#files.list(query, Date.now());
  }

  removeFile(id: string, state: "pending" | "ready"): Promise<boolean> {
    return this.#writeFiles((now) => this.#files.remove(id, state, now));
  }

  keepFiles(ids: string[], until: number): Promise<string[]> {
    return this.#writes.run(() => this.#files.keep(ids, until, Date.now()));
  }

  async upload(id: string): Promise<FileUpload | null> {
    return this.#files.upload(id, Date.now());
  }

  keepPart(id: string, part: number, etag: string): Promise<boolean> {
    return this.#writes.run(() => this.#files.keepPart(id, part, etag, Date.now()));
  }

  /** A write after which a file may be due earlier than any before. */
  #writeFiles<T>(write: (now: number) => T): Promise<T> {
    return this.#writes.run(() => {
      const result = write(Date.now());
      const due = this.#files.nextDue();
      if (due !== null) this.#alarms.setNoLaterThan("files", due);
      return result;
    });
  }

  /** Takes what expired, was deleted or never became whole out of R2, and then out of the books. */
  async #removeDueFiles(): Promise<void> {
    const due = await this.#writes.run(() => this.#files.markDue(Date.now()));
    await removeBytes(this.env.FILES, due);
    await this.#writeFiles(() => this.#files.forgetFiles(due.map(({ file_id }) => file_id)));
  }

  // ---- webhooks

  async webhookKeys(): Promise<{ keys: string[] }> {
    const keys = await this.#writes.run(() =>
      this.#webhooks.keys(this.env.SIGNING_SECRET, this.#accountId(), Date.now()),
    );
    return { keys };
  }

  rotateWebhookKey(): Promise<{ key: string; previous_valid_until: number }> {
    return this.#writes.run(() => this.#webhooks.rotate(this.env.SIGNING_SECRET, this.#accountId(), Date.now()));
  }

  async testWebhook(test: { url: string; event: WebhookEvent; body: string }): Promise<WebhookTestResult> {
    return this.#webhooks.test((await this.webhookKeys()).keys, test);
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run((name) => {
      if (name === "confirm") return this.#confirmAdmissions();
      if (name === "alerts") return this.#sendAlerts();
      return name === "files" ? this.#removeDueFiles() : this.#writes.run(() => this.#money.expireCredits(Date.now()));
    });
  }

  /** Asks the PredictionObjects about admissions that nothing confirmed in time. Any that is not there is unlisted. */
  async #confirmAdmissions(): Promise<void> {
    const due = this.#store
      .unconfirmed(CONFIRM_BATCH_MAX)
      .filter((row) => row.admitted_at <= Date.now() - CONFIRM_AFTER_MS);
    const idsOf = (isBatch: boolean): string[] =>
      due.filter((row) => (row.kind === "batch") === isBatch).map((row) => row.prediction_id);
    const accountId = this.#accountId();
    const byObject = Map.groupBy(idsOf(false), predictionObjectName);
    const answers = await Promise.all([
      ...[...byObject.values()].map(async (ids) => {
        const documents = await predictionStub(this.env, ids[0] ?? "").getMany(ids, accountId);
        return ids.map((id, i) => ({ id, exists: documents[i] != null }));
      }),
      ...idsOf(true).map(async (id) => [{ id, exists: (await batchStub(this.env, id).get(accountId)) !== null }]),
    ]);
    // Before the row goes: what breaks in between is done again. A large input is put before its prediction is created.
    for (const { id, exists } of answers.flat()) if (!exists) await removeObjects(this.env, id);
    await this.#writes.run(() => {
      for (const { id, exists } of answers.flat()) {
        if (exists) this.#store.confirm(id);
        else if (this.#store.remove(id, true)) this.#money.free(id);
      }
      const next = this.#store.unconfirmed(1)[0];
      if (next !== undefined) this.#alarms.set("confirm", next.admitted_at + CONFIRM_AFTER_MS);
    });
  }

  /** Inside a commit of an account that may have admitted nothing yet: its alarms need its name. */
  #keepName(): void {
    this.#store.createTables();
    this.#store.setFullAt(this.#accountId(), this.#store.fullAt());
  }

  /** An object that an alarm woke may not know its name: it is stored since its first write. */
  #accountId(): string {
    this.#name ??= this.ctx.id.name ?? this.#store.accountId();
    if (this.#name === null) throw new Error("this object was not reached by its name");
    return this.#name;
  }
}
