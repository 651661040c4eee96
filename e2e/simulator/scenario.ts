/** What happens in a run, drawn from its seed before it begins: who asks for what and when, how models behave, and how often things break. */
import type { RunSpec } from "../../durable-objects/prediction-contract.ts";
import type { StoredTerms } from "../../schema/tables/accounts.ts";
import type { FaultRates } from "./network.ts";
import type { ModelPlan } from "./origin-journal.ts";
import type { Random } from "./random.ts";

export interface PlannedPrediction {
  at_ms: number;
  account: string;
  deployment: number;
  plan: ModelPlan;
  wait_ms: number;
  cancel_after_ms: number | null;
  /** the client cancels it so long after it was acknowledged */
  canceled_after_ms: number | null;
  /** an Idempotency-Key; repeats with it are as many more creates */
  key: string | null;
  repeats: number;
  webhook: boolean;
  filter: string[] | null;
  retention_ms: number | null;
  hasSecret: boolean;
  /** Cogway-Max-Cost */
  max_cost_micros: number | null;
}

export interface Scenario {
  rates: FaultRates;
  /** then everything works */
  faultsUntil_ms: number;
  origins: number;
  instancesPerOrigin: number;
  specs: RunSpec[];
  /** of setups, while there are faults */
  setupFailure: number;
  accounts: string[];
  /** what each account's row says about money */
  terms: Record<string, StoredTerms>;
  predictions: PlannedPrediction[];
  /** leases a second above which a deployment has one more lane: so few that some runs have several */
  leasesPerLane: number;
}

/** Micro-dollars for a second of a model: a dollar, so that a short run costs many units. */
export const SECOND_MICROS = 1_000_000;

function drawTerms(random: Random): StoredTerms {
  const kind = random.int(0, 9);
  if (kind < 5) return {};
  // A first hold is a minute, so a cap lets few run at once, or one that is then stopped at it.
  if (kind < 8) return { day_micros: random.int(1_000_000, 200_000_000) };
  return { billing: "prepaid", free_credits_micros: random.int(1_000_000, 200_000_000) };
}

const CALM: FaultRates = {
  ...{ lost: 0, doubled: 0, slow: 0.01, crash: 0, killAll: 0, originCrash: 0, instanceCrash: 0, partition: 0 },
  ...{ webhook: 0, storage: 0 },
};

function drawRates(random: Random): FaultRates {
  if (random.chance(0.08)) return CALM;
  // Each kind of fault is absent, rare or frequent by itself: some runs have one kind alone, and go deep there.
  const rate = (rare: number, frequent: number): number => {
    const kind = random.int(0, 3);
    return kind === 0 ? 0 : kind === 3 ? frequent : rare;
  };
  return {
    lost: rate(0.01, 0.08),
    doubled: rate(0.02, 0.2),
    slow: rate(0.02, 0.15),
    crash: rate(0.01, 0.06),
    killAll: rate(0.03, 0.2),
    originCrash: rate(0.02, 0.1),
    instanceCrash: rate(0.02, 0.15),
    partition: rate(0.02, 0.1),
    webhook: rate(0.1, 0.5),
    storage: rate(0.01, 0.05),
  };
}

/** Origins that are cut off, given up, and come back to what others run by then. */
const PARTED: FaultRates = { ...CALM, lost: 0.02, slow: 0.05, crash: 0.005, originCrash: 0.01, partition: 0.06 };

function drawPlan(random: Random, longShare: number): ModelPlan {
  const isLong = random.chance(longShare);
  return {
    outputs: isLong ? random.int(2, 4) : random.int(0, 4),
    step_ms: isLong ? random.int(10_000, 25_000) : random.chance(0.2) ? random.int(500, 3_000) : random.int(1, 200),
    end: random.chance(0.8) ? "succeeded" : random.pick(["failed", "hangs", "crashes", "upload fails"]),
    ignores_cancel: random.chance(0.2),
    varies: false,
  };
}

export function drawScenario(seed: number, random: Random): Scenario {
  const isParted = random.chance(0.1);
  const hasLanes = !isParted && random.chance(0.06);
  const accounts = ["alice", "bob", "carol"].slice(0, random.int(1, 3));
  const specs: RunSpec[] = [];
  const count = random.chance(0.3) ? 2 : 1;
  for (let n = 0; n < count; n++) {
    specs.push({
      deployment_key: `version:test${n}`,
      release: 0,
      version_id: String(n).repeat(64),
      mode: "predict",
      weights: null,
      // What the isolate remembers of models and hardware is of this run alone.
      model: `cogway/test${n}-${seed}`,
      slots: hasLanes ? random.int(4, 8) : random.pick([1, 1, 2, 3]),
      memory_bytes: 1_000,
      hardware: hardwareOf(seed),
      idempotent: random.chance(isParted ? 0.9 : 0.5),
      output_is_iterator: true,
      min_instances: 0,
      max_instances: random.int(1, 3),
      idle_ttl_ms: random.int(2_000, 8_000),
      setup_timeout_ms: 10_000,
    });
  }
  const faultsUntil_ms = isParted ? random.int(50_000, 90_000) : random.int(hasLanes ? 20_000 : 4_000, 30_000);
  const predictions: PlannedPrediction[] = [];
  const wanted = hasLanes ? random.int(8, 16) : random.int(2, 8);
  const isBurst = !hasLanes && random.chance(0.4);
  for (let n = 0; n < wanted; n++) {
    const deployment = random.int(0, count - 1);
    const plan = drawPlan(random, isParted ? 0.5 : 0.06);
    // What hangs is ended by somebody.
    const mustEnd = plan.end === "hangs";
    predictions.push({
      at_ms: isBurst ? random.int(0, 300) : random.int(0, Math.floor(faultsUntil_ms * 0.7)),
      account: random.pick(accounts as [string, ...string[]]),
      deployment,
      plan: { ...plan, varies: specs[deployment]?.idempotent !== true || random.chance(0.2) },
      wait_ms: random.chance(0.3) ? random.int(100, 5_000) : 0,
      cancel_after_ms: mustEnd || random.chance(0.15) ? random.int(5_000, 15_000) : null,
      canceled_after_ms: random.chance(0.2) ? random.int(0, 3_000) : null,
      key: random.chance(0.4) ? `key ${random.int(0, 100)}` : null,
      repeats: random.int(0, 2),
      webhook: random.chance(0.5),
      filter: random.chance(0.3) ? ["completed", ...(random.chance(0.5) ? ["start"] : [])] : null,
      retention_ms: random.chance(0.1) ? 0 : random.chance(0.2) ? random.int(1_000, 20_000) : 3_600_000,
      hasSecret: random.chance(0.1),
      // Less than ten seconds' worth is refused: so long a run is assumed of a version that never ran.
      max_cost_micros: random.chance(plan.step_ms >= 10_000 ? 0.6 : 0.05) ? random.int(10_000_000, 40_000_000) : null,
    });
  }
  const isBroken = random.chance(0.1);
  return {
    rates: isParted ? PARTED : drawRates(random),
    faultsUntil_ms,
    origins: isParted ? 3 : random.int(1, 3),
    instancesPerOrigin: random.int(1, 3),
    specs,
    setupFailure: isBroken ? random.pick([0.3, 1]) : 0,
    accounts,
    terms: Object.fromEntries(accounts.map((account) => [account, drawTerms(random)])),
    predictions,
    leasesPerLane: hasLanes ? 0.05 : 100,
  };
}

/** The SKU of all hosts of a run. */
export function hardwareOf(seed: number): string {
  return `cpu-${seed}`;
}
