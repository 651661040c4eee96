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
import { ACCOUNT_SCOPE, book, bookCredit, expire, release, reserve, welcome } from "../schema/budgets.ts";
import type { StoredFile } from "../schema/files.ts";
import { predictionObjectName } from "../schema/ids.ts";
import { dayOf, monthOf } from "../schema/ledger.ts";
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
import { AccountStore, type IdempotencyRow } from "./account-store.ts";
import { AccountWebhooks } from "./account-webhooks.ts";
import { Alarms } from "./alarms.ts";
import type { ForsakenModel, IdleDeployment } from "./alerts-contract.ts";
import { GroupCommit } from "./group-commit.ts";
import type {
  AccountTerms,
  Balance,
  Charge,
  CreditEntry,
  Discounts,
  InvoiceData,
  LedgerEntry,
  LedgerQuery,
  OnlineCharge,
  SpendRefusal,
  SpendRequest,
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
    const refusal = request.spend === undefined ? null : this.#hold(request.prediction_id, request.spend, now);
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
      if (this.#store.remove(predictionId, true)) release(this.#ledger, predictionId);
    });
  }

  settle(settlements: Settlement[]): Promise<void> {
    return this.#writes.run(() => {
      this.#store.createTables();
      const now = Date.now();
      for (const settlement of settlements) {
        if (!this.#store.settle(settlement, now)) continue;
        const token = this.#ledger.reservation(settlement.prediction_id)?.token ?? null;
        release(this.#ledger, settlement.prediction_id);
        if (settlement.charge === undefined) continue;
        this.#book(settlement.charge);
        this.#watchCaps(token, null, now);
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

  // ---- money (what is decided is in schema/budgets.ts)

  /** Inside a commit: takes the terms that an admission brings, and reserves. */
  #hold(id: string, spend: SpendRequest, now: number): SpendRefusal | null {
    this.#ledger.createTables();
    this.#ledger.setTerms(spend.terms);
    if (welcome(this.#ledger, spend.terms, now)) this.#expireCredits(now);
    const refusal = reserve(this.#ledger, id, spend.reserve_micros, spend, now);
    if (refusal !== null) this.#watchCaps(spend.token, refusal, now);
    return refusal;
  }

  /** Inside a commit in which money moved, or a cap refused some: thresholds that were reached are told. */
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
      const isNew = this.#alerts.check({ scope, budget, spent, refused }, terms.alert_webhook, now);
      if (isNew) this.#alarms.setNoLaterThan("alerts", now);
    }
  }

  deploymentIdle(idle: IdleDeployment): Promise<void> {
    return this.#writes.run(() => {
      const now = Date.now();
      this.#store.createTables();
      this.#store.setFullAt(this.#accountId(), this.#store.fullAt());
      const webhook = this.#ledger.terms()?.alert_webhook ?? null;
      if (this.#alerts.idle(idle, webhook, now)) this.#alarms.setNoLaterThan("alerts", now);
    });
  }

  modelUnhealthy(model: ForsakenModel, webhook: string | null): Promise<void> {
    return this.#writes.run(() => {
      const now = Date.now();
      this.#store.createTables();
      this.#store.setFullAt(this.#accountId(), this.#store.fullAt());
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

  #book(charge: Charge): number {
    this.#ledger.createTables();
    return book(this.#ledger, charge);
  }

  /** Credits whose end has come are booked out; the next end rings. */
  #expireCredits(now: number): void {
    const next = expire(this.#ledger, now);
    if (next !== null) this.#alarms.set("credits", next);
  }

  /** What was booked counts for metrics before it is answered: where that fails, the whole is told again, and the sum is the same. */
  async charge(charges: OnlineCharge[]): Promise<SpendRefusal | null> {
    const { refusal, onlineMicros } = await this.#writes.run(() => this.#charge(charges));
    if (charges.some(({ lines }) => lines.length > 0)) {
      const accountId = this.#accountId();
      await predictionStub(this.env, accountId).countOnline(accountId, onlineMicros);
    }
    return refusal;
  }

  #charge(charges: OnlineCharge[]): { refusal: SpendRefusal | null; onlineMicros: number } {
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
      const refused = this.#hold(hold.id, spend, Date.now());
      refusal ??= refused;
    }
    return { refusal, onlineMicros: this.#ledger.addOnline(added) };
  }

  hold(requests: Parameters<AccountApi["hold"]>[0]): Promise<(SpendRefusal | null)[]> {
    return this.#writes.run(() => {
      const now = Date.now();
      return requests.map(({ id, reserve_micros, spend }) => {
        if (spend !== undefined) return this.#hold(id, { ...spend, reserve_micros }, now);
        const terms = this.#ledger.terms();
        const token = this.#ledger.reservation(id)?.token ?? null;
        return terms === null ? null : reserve(this.#ledger, id, reserve_micros, { terms, token }, now);
      });
    });
  }

  setTerms(terms: AccountTerms): Promise<void> {
    return this.#writes.run(() => {
      this.#store.createTables();
      this.#ledger.createTables();
      this.#ledger.setTerms(terms);
      this.#store.setFullAt(this.#accountId(), this.#store.fullAt());
    });
  }

  credit(entry: CreditEntry, terms: AccountTerms): Promise<Balance> {
    return this.#writes.run(() => {
      const now = Date.now();
      this.#store.createTables();
      this.#ledger.createTables();
      this.#ledger.setTerms(terms);
      this.#store.setFullAt(this.#accountId(), this.#store.fullAt());
      bookCredit(this.#ledger, entry, now);
      this.#expireCredits(now);
      return this.#ledger.balance(terms, now);
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
      return name === "files" ? this.#removeDueFiles() : this.#writes.run(() => this.#expireCredits(Date.now()));
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
        else if (this.#store.remove(id, true)) release(this.#ledger, id);
      }
      const next = this.#store.unconfirmed(1)[0];
      if (next !== undefined) this.#alarms.set("confirm", next.admitted_at + CONFIRM_AFTER_MS);
    });
  }

  /** An object that an alarm woke may not know its name: the first admission stored it. */
  #accountId(): string {
    this.#name ??= this.ctx.id.name ?? this.#store.accountId();
    if (this.#name === null) throw new Error("this object was not reached by its name");
    return this.#name;
  }
}
