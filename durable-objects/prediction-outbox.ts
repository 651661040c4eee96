/**
 * Carries out what the ends of predictions owe to others: the account gets the document and the meter, the deployment its slot back. Each message was
 * recorded in the transaction of its cause; it is sent at once, again by the alarm until it was taken, and marked with the next commit. Receivers take
 * repeats as no-ops. One call at a time to each owner, with everything that waits for it.
 */
import { laneName } from "../schema/lanes.ts";
import { meterOfProgress } from "../schema/prediction-cost.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import type { Effect } from "../schema/prediction-lifecycle.ts";
import type { Settlement } from "./account-contract.ts";
import type { BatchSettlement } from "./batch-contract.ts";
import type { OutboxMessage, OutboxRow, PredictionRow } from "./prediction-store.ts";
import { accountStub, batchStub, deploymentStub } from "./stubs.ts";

/** Messages in one call. */
const BATCH_MAX = 200;
/** Nobody waits for an account's books, so they wait for company: one commit for all ends of this time. A slot is given back at once. */
const ACCOUNT_LINGER_MS = 100;

/** What the messages say, read when they are sent. Null: the prediction is gone. */
export interface OutboxSource {
  settlement(id: string): Promise<Settlement | null>;
  document(id: string): Promise<PredictionDocument | null>;
}

export class PredictionOutbox {
  readonly #env: Env;
  readonly #source: OutboxSource;
  readonly #waiting = new Map<string, Map<number, OutboxRow>>();
  readonly #sending = new Map<string, Promise<void>>();
  /** waiting, on the way, or taken and not yet deleted */
  readonly #known = new Set<number>();
  #sent: number[] = [];

  constructor(env: Env, source: OutboxSource) {
    this.#env = env;
    this.#source = source;
  }

  /** Sends rows that are committed, or that an alarm found. Resolves when those owners took them, or failed to. */
  async send(rows: readonly OutboxRow[]): Promise<void> {
    const owners = new Set<string>();
    for (const row of rows) {
      owners.add(row.owner);
      if (this.#known.has(row.n)) continue;
      this.#known.add(row.n);
      const waiting = this.#waiting.get(row.owner) ?? new Map<number, OutboxRow>();
      waiting.set(row.n, row);
      this.#waiting.set(row.owner, waiting);
    }
    await Promise.all([...owners].map((owner) => this.#drain(owner)));
  }

  /** The numbers of rows that were taken since the last call: to be deleted in the commit at hand. */
  takeSent(): number[] {
    const sent = this.#sent;
    this.#sent = [];
    for (const n of sent) this.#known.delete(n);
    return sent;
  }

  #drain(owner: string): Promise<void> {
    const running = this.#sending.get(owner);
    if (running !== undefined) return running;
    // The first part runs at once, so the entry is made before it can be taken away.
    const work = Promise.resolve().then(() => this.#work(owner));
    this.#sending.set(owner, work);
    return work;
  }

  async #work(owner: string): Promise<void> {
    for (;;) {
      if (owner.startsWith("account:")) await new Promise((resolve) => setTimeout(resolve, ACCOUNT_LINGER_MS));
      const waiting = this.#waiting.get(owner);
      const batch = [...(waiting?.values() ?? [])].slice(0, BATCH_MAX);
      if (batch.length === 0) {
        this.#waiting.delete(owner);
        this.#sending.delete(owner);
        return;
      }
      for (const row of batch) waiting?.delete(row.n);
      try {
        await this.#call(owner, batch);
        this.#sent.push(...batch.map((row) => row.n));
      } catch (error) {
        // The alarm finds the rows again.
        for (const row of batch) this.#known.delete(row.n);
        console.warn(JSON.stringify({ event: "outbox_unsent", owner, rows: batch.length, error: String(error) }));
      }
    }
  }

  async #call(owner: string, batch: OutboxRow[]): Promise<void> {
    const [kind = "", ...rest] = owner.split(":");
    const name = rest.join(":");
    const messages = batch.map((row) => row.message);
    if (kind === "deployment") {
      return deploymentStub(this.#env, name).release(
        messages.flatMap((message) => {
          if (message.kind !== "release") return [];
          const { kind: _kind, ...release } = message;
          return [release];
        }),
      );
    }
    if (kind === "batch") return batchStub(this.#env, name).settled(await this.#batchSettlements(messages));
    const account = accountStub(this.#env, name);
    const settlements: Settlement[] = [];
    const removed: PredictionDocument[] = [];
    for (const { kind, prediction_id } of messages) {
      if (kind === "settle") {
        const settlement = await this.#source.settlement(prediction_id);
        if (settlement !== null) settlements.push(settlement);
      } else {
        const document = await this.#source.document(prediction_id);
        if (document !== null) removed.push(document);
      }
    }
    if (settlements.length > 0) await account.settle(settlements);
    if (removed.length > 0) await account.removeData(removed);
  }

  async #batchSettlements(messages: OutboxMessage[]): Promise<BatchSettlement[]> {
    const settlements: BatchSettlement[] = [];
    for (const message of messages) {
      if (message.kind !== "batch") continue;
      const { index, prediction_id } = message;
      const document = await this.#source.document(prediction_id);
      if (document !== null) settlements.push({ index, prediction_id, document });
    }
    return settlements;
  }
}

/** What an effect of a change owes, and to whom. */
export function owedBy(row: PredictionRow, effect: Effect): Pick<OutboxRow, "owner" | "message">[] {
  const { id, request } = row;
  switch (effect.kind) {
    case "release":
      return [{ owner: deploymentOwner(request), message: releaseMessage(row, effect) }];
    case "settle":
      return [
        { owner: `account:${request.account_id}`, message: { kind: "settle", prediction_id: id } },
        ...(request.batch === null
          ? []
          : [
              {
                owner: `batch:${request.batch.batch_id}`,
                message: { kind: "batch" as const, prediction_id: id, index: request.batch.index },
              },
            ]),
      ];
    default:
      return [];
  }
}

/** Who gets the slot of a prediction back. */
function deploymentOwner({ spec, lane = 0 }: PredictionRow["request"]): string {
  return `deployment:${laneName(spec.deployment_key, lane)}`;
}

/** Gives the slot of an attempt back; where the prediction ended with it, with how it ended. */
function releaseMessage(
  { id, request, stage }: PredictionRow,
  { attempt, instance_gone }: Extract<Effect, { kind: "release" }>,
): Extract<OutboxMessage, { kind: "release" }> {
  const { model, hardware } = request.spec;
  const meter = meterOfProgress(stage, request, hardware);
  const ran_ms = Math.round(stage.life.predict_time_s * 1000);
  const message = { kind: "release", prediction_id: id, attempt, ran_ms, instance_gone, model } as const;
  // What the platform tries by itself is no run of the model's.
  if (request.is_canary === true) return { ...message, is_canary: true };
  if (meter === null) return message;
  const { outcome, platform_failure, units } = meter;
  const end = { version: request.shown_version, outcome, platform_failure, ...(units === undefined ? {} : { units }) };
  return { ...message, end };
}
