/**
 * What the account of a deployment pays for its instances: all of their lives, from the boot to the end, setup, idle and draining time included. Each life is
 * a row from its first moment; what is paid of it is told the account in hourly pieces (schema/online-time.ts), again until it was taken. A crash at
 * any point repeats a piece or leaves it for the next time, and the account books each once.
 *
 * Nothing is paid for an instance whose host was lost before it was ready, nor while it is paused, nor after the account's caps refused its next hour: then
 * it finishes what it runs and goes.
 */
import { nextHour, nextPiece, type OnlinePiece } from "../schema/online-time.ts";
import { ORIGIN_DEAD_AFTER_MS } from "../schema/origin-protocol.ts";
import { amountMicros, type CostLine, type Rates, sumMicros } from "../schema/pricing.ts";
import type { InstanceRow } from "./deployment-queue.ts";
import type { Surroundings } from "./deployment-surroundings.ts";
import type { OnlineCharge } from "./ledger-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { accountStub } from "./stubs.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS online (
  instance_id TEXT PRIMARY KEY,
  billed_until INTEGER NOT NULL,
  ended_at INTEGER,
  was_ready INTEGER NOT NULL,
  is_held INTEGER NOT NULL,
  is_free INTEGER NOT NULL,
  terms TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS idle_spell (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  since INTEGER NOT NULL
);
`;
/** After a call that was not taken. */
const TELL_AGAIN_MS = 5_000;
/** While the account's caps allow no instance, they are asked again so often: they may have been raised, or begun anew. */
const ASK_AGAIN_MS = 60_000;
/** Pieces of one call; the rest follow at once. */
const PIECES_PER_CALL = 100;
const HOUR_MS = 3_600_000;
/** A deployment that ran nothing for this long while it was paid for is pointed out: the length of a weekend. */
export const IDLE_ALERT_MS = 48 * HOUR_MS;

/** What is paid for an instance: agreed when it booted, whatever prices come later. */
interface OnlineTerms {
  account_id: string;
  deployment: string | null;
  model: string;
  version: string;
  rates: Rates;
}

type OnlineRow = {
  instance_id: string;
  billed_until: number;
  ended_at: number | null;
  was_ready: number;
  /** the account was asked to hold its hour */
  is_held: number;
  /** refused: it lives on for nothing until it is gone */
  is_free: number;
  terms: string;
};

interface OnlineSurroundings extends Surroundings<"online"> {
  sql: SqlStorage;
  /** inside a write: how many instances are wanted is to be decided anew */
  scale: (now: number) => void;
}

export class DeploymentOnline {
  readonly #is: OnlineSurroundings;
  #tables: "unknown" | "none" | "there" = "unknown";
  #telling: Promise<void> | null = null;

  constructor(surroundings: OnlineSurroundings) {
    this.#is = surroundings;
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables = "unknown";
  }

  #exists(): boolean {
    if (this.#tables === "unknown") {
      const found = this.#is.sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'idle_spell'").toArray();
      this.#tables = found.length > 0 ? "there" : "none";
    }
    return this.#tables === "there";
  }

  /** Inside every write in which instances may have come, changed or gone. */
  sync(now: number): void {
    const { queue, alarms, followUp } = this.#is;
    const spec = queue.spec();
    const rows = this.#exists() ? this.#rows() : [];
    if (spec.online === undefined && rows.length === 0) return;
    if (!this.#exists()) {
      this.#is.sql.exec(TABLES);
      this.#tables = "there";
    }
    const instances = new Map(queue.instances().map((row) => [row.instance_id, row]));
    const known = new Set(rows.map((row) => row.instance_id));
    let isDue = false;
    for (const instance of instances.values()) {
      const paid = isOver(instance) ? null : onlineTerms(this.#specOf(instance));
      if (known.has(instance.instance_id) || paid === null) continue;
      this.#insert(instance, paid);
      isDue = true;
    }
    for (const row of rows) {
      if (row.ended_at !== null) continue;
      const instance = instances.get(row.instance_id);
      if (instance?.state === "ready" && row.was_ready === 0) {
        this.#is.sql.exec("UPDATE online SET was_ready = 1 WHERE instance_id = ?", row.instance_id);
      }
      if (instance !== undefined && !isOver(instance)) continue;
      const paidUntil = row.is_free === 1 ? row.billed_until : (instance?.changed_at ?? now);
      this.#end(row.instance_id, Math.max(row.billed_until, paidUntil));
      isDue = true;
    }
    if (this.#isSpellOver()) {
      alarms.setNoLaterThan("online", now + TELL_AGAIN_MS);
      followUp(() => this.#tellSpell());
    }
    if (isDue) {
      alarms.setNoLaterThan("online", now + TELL_AGAIN_MS);
      followUp(() => this.tell());
    }
  }

  /** Inside a write: the host of these is lost. What never became ready is free; others are paid until the host was last heard. */
  lost(instanceIds: string[], now: number): void {
    if (!this.#exists()) return;
    const rows = this.#rows().filter(
      (row) => instanceIds.includes(row.instance_id) && row.ended_at === null && row.is_free === 0,
    );
    for (const row of rows) {
      if (row.was_ready === 0) this.#end(row.instance_id, row.billed_until);
      else this.#end(row.instance_id, Math.max(row.billed_until, now - ORIGIN_DEAD_AFTER_MS));
    }
    if (rows.length === 0) return;
    this.#is.alarms.setNoLaterThan("online", now + TELL_AGAIN_MS);
    this.#is.followUp(() => this.tell());
  }

  #specOf({ boot_key }: InstanceRow): RunSpec {
    return (boot_key === null ? null : this.#is.queue.specOf(boot_key)) ?? this.#is.queue.spec();
  }

  #insert({ instance_id, placed_at, state }: InstanceRow, terms: OnlineTerms): void {
    this.#is.sql.exec(
      "INSERT OR IGNORE INTO online (instance_id, billed_until, ended_at, was_ready, is_held, is_free, terms) VALUES (?, ?, NULL, ?, 0, 0, ?)",
      ...[instance_id, placed_at, state === "ready" ? 1 : 0, JSON.stringify(terms)],
    );
  }

  #end(instanceId: string, at: number): void {
    this.#is.sql.exec("UPDATE online SET ended_at = ? WHERE instance_id = ?", at, instanceId);
  }

  #rows(): OnlineRow[] {
    return this.#is.sql.exec<OnlineRow>("SELECT * FROM online ORDER BY instance_id").toArray();
  }

  /** Tells the account what is over, and what is to be held for the hour that follows. One call at a time. */
  tell(): Promise<void> {
    this.#telling ??= this.#tellAll().finally(() => {
      this.#telling = null;
    });
    return this.#telling;
  }

  async #tellAll(): Promise<void> {
    if (!this.#exists()) return;
    for (;;) {
      const now = Date.now();
      const rows = this.#rows();
      const due = rows.flatMap((row) => dueOf(row, now)).slice(0, PIECES_PER_CALL);
      if (due.length === 0) break;
      const byAccount = Map.groupBy(due, ({ terms }) => terms.account_id);
      for (const [accountId, pieces] of byAccount) {
        const refusal = await accountStub(this.#is.env, accountId).charge(pieces.map(({ charge }) => charge));
        await this.#is.write((at) => {
          for (const one of pieces) this.#told(one);
          if (refusal !== null) this.#refused(refusal.detail, at);
        });
      }
    }
    await this.#is.write((now) => {
      const live = this.#rows().filter((row) => row.ended_at === null);
      if (live.length > 0) this.#is.alarms.setNoLaterThan("online", nextHour(now));
    });
  }

  /** What ended while its next hour was asked for stays until that is given back. */
  #told({ row, piece, charge }: Due): void {
    const { sql } = this.#is;
    const isHeld = charge.hold.micros > 0;
    sql.exec(
      "UPDATE online SET billed_until = ?, is_held = ? WHERE instance_id = ?",
      ...[piece?.to ?? row.billed_until, isHeld ? 1 : 0, row.instance_id],
    );
    if (isHeld) return;
    sql.exec("DELETE FROM online WHERE instance_id = ? AND ended_at <= billed_until", row.instance_id);
  }

  /** What lives on after a refusal does so for nothing, and nothing boots until there is money again. */
  #refused(detail: string, now: number): void {
    const { queue, sql, alarms, scale } = this.#is;
    sql.exec("UPDATE online SET is_free = 1 WHERE ended_at IS NULL");
    queue.saveFacts({ unpaid: detail });
    alarms.setNoLaterThan("online", now + ASK_AGAIN_MS);
    scale(now);
  }

  /** Whether an hour of an instance could be held again; what is held for the question is given back. */
  async #askForMoney(): Promise<void> {
    const { env, queue, write, alarms, scale } = this.#is;
    const { online, deployment_key, model, version_id } = queue.spec();
    if (online === undefined || queue.facts().unpaid === null) return;
    const account = accountStub(env, online.account_id);
    const id = `deployment:${deployment_key}`;
    const ask = (micros: number): OnlineCharge => ({
      ...{ subject: id, at: Date.now(), basis: "online", model, version: version_id, hardware: online.rates.hardware },
      ...{ token_id: null, deployment: online.deployment, lines: [], hold: { id, micros } },
    });
    const refusal = await account.charge([ask(sumMicros(timeLines(HOUR_MS, online.rates)))]);
    await account.charge([ask(0)]);
    await write((now) => {
      queue.saveFacts({ unpaid: refusal?.detail ?? null });
      if (refusal !== null) alarms.setNoLaterThan("online", now + ASK_AGAIN_MS);
      else scale(now);
    });
  }

  // ---- idle spells: told once, and told again when they are over

  #toldSpell(): number | null {
    return this.#is.sql.exec<{ since: number }>("SELECT since FROM idle_spell").toArray()[0]?.since ?? null;
  }

  #isSpellOver(): boolean {
    const { queue, sql } = this.#is;
    const told = this.#toldSpell();
    if (told === null) return false;
    const isLive = sql.exec("SELECT 1 FROM online WHERE ended_at IS NULL LIMIT 1").toArray().length > 0;
    return !isLive || queue.isBusy() || (queue.facts().last_used_at ?? 0) > told;
  }

  async #tellSpell(): Promise<void> {
    const { env, queue, sql, write } = this.#is;
    const { online, model } = queue.spec();
    if (online === undefined) return;
    const account = accountStub(env, online.account_id);
    const deployment = online.deployment ?? model;
    if (this.#toldSpell() !== null) {
      if (!this.#isSpellOver()) return;
      await account.deploymentBusy(deployment);
      await write(() => {
        sql.exec("DELETE FROM idle_spell");
      });
      return;
    }
    const live = queue.instances().filter((row) => !isOver(row));
    if (live.length === 0 || queue.isBusy()) return;
    const since = queue.facts().last_used_at ?? Math.min(...live.map((row) => row.placed_at));
    if (Date.now() - since < IDLE_ALERT_MS) return;
    const hour_micros = live.length * sumMicros(timeLines(HOUR_MS, online.rates));
    await account.deploymentIdle({ deployment, idle_since: since, instances: live.length, hour_micros });
    await write(() => {
      sql.exec("INSERT OR REPLACE INTO idle_spell VALUES (1, ?)", since);
    });
  }

  /** The deadline `online`: at the end of each hour in which an instance lives, and when something is to be told again. */
  async alarm(): Promise<void> {
    await this.#is.write((now) => {
      if (this.#exists() && this.#rows().length > 0) this.#is.alarms.setNoLaterThan("online", nextHour(now));
    });
    if (!this.#exists()) return;
    await this.tell();
    await this.#askForMoney();
    await this.#tellSpell();
  }
}

function isOver({ state }: InstanceRow): boolean {
  return state === "stopped" || state === "failed";
}

function onlineTerms({ online, model, version_id }: RunSpec): OnlineTerms | null {
  return online === undefined ? null : { ...online, model, version: version_id };
}

/** One thing to tell of a life. */
interface Due {
  row: OnlineRow;
  terms: OnlineTerms;
  piece: OnlinePiece | null;
  charge: OnlineCharge & { hold: { micros: number } };
}

/** What is to be told of a life now: a piece that is over, the first hold, or that nothing more is held. */
function dueOf(row: OnlineRow, now: number): Due[] {
  const terms = JSON.parse(row.terms) as OnlineTerms;
  // A host that is lost before it is ready is the platform's failure: nothing is told of a life that may still be free.
  const isCertain = row.was_ready === 1 || row.ended_at !== null;
  const isFree = row.is_free === 1;
  const piece = isCertain && !isFree ? nextPiece(row, now) : null;
  const isSpent = row.ended_at !== null && row.ended_at <= row.billed_until;
  const isHeld = row.is_held === 1;
  if (piece === null && !isSpent && isHeld !== isFree) return [];
  const { account_id: _account, deployment, model, version, rates } = terms;
  const isLast = isFree || isSpent || (row.ended_at !== null && row.ended_at === piece?.to);
  const lines = piece === null ? [] : timeLines(piece.to - piece.from, rates);
  const hold = { id: `instance:${row.instance_id}`, micros: isLast ? 0 : sumMicros(timeLines(HOUR_MS, rates)) };
  const charge: Due["charge"] = {
    subject: piece?.subject ?? hold.id,
    // The last moment of the piece: an hour that ends with a day belongs to that day.
    at: (piece?.to ?? row.billed_until + 1) - 1,
    basis: "online",
    ...{ model, version, deployment, lines, hold },
    hardware: rates.hardware,
    token_id: null,
  };
  return [{ row, terms, piece, charge }];
}

function timeLines(ms: number, { items, discount_ppm }: Rates): CostLine[] {
  const quantity = ms * 1_000;
  return items.map((item) => ({
    ...item,
    quantity,
    discount_ppm,
    amount_micros: amountMicros(quantity, item, discount_ppm),
  }));
}
