/**
 * Watches what running predictions cost: asks their account to hold more before what is held is used up, and stops them where there is no more or where they
 * have cost what their caller allows. All of it rests on stored rows, so an eviction loses nothing; the object's `due` deadline rings.
 */

import { applyAttemptEvents } from "../schema/attempt-events.ts";
import type { AttemptBatch } from "../schema/origin-protocol.ts";
import {
  costLimit,
  finalLines,
  HOLD_AHEAD_MS,
  meterOfProgress,
  nextHolds,
  reachesAt,
  unboundedCost,
} from "../schema/prediction-cost.ts";
import type { LifecycleEvent } from "../schema/prediction-lifecycle.ts";
import type { Settlement } from "./account-contract.ts";
import type { PredictionRow, PredictionStore, Stage } from "./prediction-store.ts";
import { accountStub } from "./stubs.ts";

export interface SpendingHost {
  env: Env;
  store: PredictionStore;
  /** Saves a change of a live prediction in a commit of its own. */
  change(id: string, change: Pick<Stage, "reserved_micros" | "is_hold_refused">): Promise<void>;
  step(id: string, event: LifecycleEvent): Promise<void>;
}

export class PredictionSpending {
  readonly #host: SpendingHost;

  constructor(host: SpendingHost) {
    this.#host = host;
  }

  /** When its cost must be looked at next; null for never. */
  dueAt({ request, stage }: PredictionRow, now: number): number | null {
    if (stage.life.state === "canceling") return null;
    const limit = costLimit(request, stage);
    const at = limit === null ? null : reachesAt(stage, request.rates, limit.micros, now);
    if (at === null || limit?.reason !== "budget") return at;
    // Once in time, and where nothing more was there then, at the limit itself.
    return stage.is_hold_refused === true ? at : at - HOLD_AHEAD_MS;
  }

  /** Its cost is near its limit, or reached it. Throws where the account cannot be asked. */
  async reached(id: string): Promise<void> {
    const row = this.#host.store.get(id);
    if (row === null || row.stage.life.state === "canceling") return;
    const now = Date.now();
    const limit = costLimit(row.request, row.stage);
    const at = limit === null ? null : reachesAt(row.stage, row.request.rates, limit.micros, now);
    if (limit === null || at === null) return;
    if (limit.reason === "budget" && (await this.#holdMore(row, limit.micros))) return;
    if (at <= now) await this.#host.step(id, { type: "limit", reason: limit.reason });
    else await this.#host.change(id, { is_hold_refused: true });
  }

  /** Whether more is held now. */
  async #holdMore({ id, request }: PredictionRow, held: number): Promise<boolean> {
    const { rates, max_cost_micros, account_id } = request;
    for (const total of rates === undefined ? [] : nextHolds(rates, held)) {
      const reserve_micros = Math.min(total, max_cost_micros ?? total);
      const [refusal] = await accountStub(this.#host.env, account_id).hold([{ id, reserve_micros }]);
      if (refusal !== null) continue;
      await this.#host.change(id, { reserved_micros: reserve_micros, is_hold_refused: false });
      return true;
    }
    return false;
  }

  /**
   * What is held once these events are stored. An end that costs more than was held is paid in full where there is room: asked before the end is stored, since
   * nothing changes it afterwards. Where the account cannot be asked, what is beyond is given away.
   */
  async heldFor(row: PredictionRow, batch: AttemptBatch, outputAt: (n: number) => unknown): Promise<number | null> {
    const { id, request, stage } = row;
    const limit = costLimit(request, stage);
    if (limit?.reason !== "budget" || !batch.events.some(({ type }) => type === "finished")) return null;
    const { progress } = applyAttemptEvents(stage, batch, Date.now(), outputAt);
    const cost = unboundedCost(progress, request, request.spec.hardware);
    const reserve_micros = Math.min(cost, request.max_cost_micros ?? cost);
    if (reserve_micros <= limit.micros) return null;
    const refusals = await accountStub(this.#host.env, request.account_id)
      .hold([{ id, reserve_micros }])
      .catch((error: unknown) => {
        console.warn(JSON.stringify({ event: "end_hold_failed", prediction_id: id, error: String(error) }));
        return [];
      });
    return refusals[0] === null ? reserve_micros : null;
  }
}

/** What its end books; nothing where nothing is to be paid. */
export function chargeOf({ id, request, stage }: PredictionRow): Pick<Settlement, "meter" | "charge"> | null {
  const { spec, rates, shown_version, deployment, token_id } = request;
  const meter = meterOfProgress(stage, request, spec.hardware);
  const lines = finalLines(stage, request, spec.hardware);
  if (meter === null || lines === null) return null;
  if (rates === undefined || lines.length === 0) return { meter };
  const { model } = spec;
  const at = stage.life.completed_at ?? stage.life.created_at;
  const paid = { at, basis: rates.basis, model, version: shown_version, hardware: rates.hardware };
  return {
    meter,
    charge: { subject: `prediction:${id}`, ...paid, token_id: token_id ?? null, deployment, lines },
  };
}
