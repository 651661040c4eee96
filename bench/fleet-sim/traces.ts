/**
 * The loads that policies are measured on. A trace holds all that is not the policy's: deployments, hosts, when predictions come and how long each
 * runs. All policies meet the same one.
 *
 * | kind       | what comes                                                                                     | hours | GPUs   |
 * | ---------- | ---------------------------------------------------------------------------------------------- | ----- | ------ |
 * | poisson    | 16 deployments at constant rates, 0.02 to 4 busy GPUs each                                      | 1.5   | 120    |
 * | diurnal    | 8 deployments that follow the day, four of them only in office hours, and 2 with a daily batch  | 96    | 96     |
 * | flash      | 8 quiet deployments; twice in the trace one of them gets 100 times its rate for five minutes    | 2     | 336    |
 * | heavy      | 12 deployments at constant rates; durations are Pareto's of shape 1.5, 1 to 5 s at least, 1 h at most | 3  | 240    |
 * | zipf       | a catalog of 50,000 models, about 50,000 predictions                                            | 2     | 984    |
 * | zipf-large | the same catalog, about 1,000,000 predictions                                                   | 2     | 10,000 |
 *
 * Popularity of the catalog is Zipf's with exponent 1.5: then 18.6 % of the models get 99.6 % of the calls, as Shahrad et al. report of the
 * applications of Azure Functions (USENIX ATC 2020); hubs of models are more skewed still. Of its models 60 % are used in sessions of some predictions (an
 * exponential pause between them), 20 % at random and 20 % by schedules (every 5 to 60 minutes); the 100 most popular ones have many users, so none of
 * these is a schedule.
 *
 * Every instance takes one GPU and runs one prediction at a time, Cog's default. A start (boot and setup) takes a time of its deployment; on a host that
 * has not run its version before, fetching image and weights comes first.
 *
 * Seeds: 1 to 10 of each kind but `zipf-large`, which has seed 1 alone and is for size. Seeds 8, 9 and 10 are held out: no constant of a policy may be chosen by
 * them, and they are run at the end.
 */
import { Random } from "./random.ts";

export const KINDS = ["poisson", "diurnal", "flash", "heavy", "zipf"] as const;
export type Kind = (typeof KINDS)[number] | "zipf-large";

export const TRAINING_SEEDS = [1, 2, 3, 4, 5, 6, 7] as const;
export const HELD_OUT_SEEDS = [8, 9, 10] as const;

/** Dollars for a second, as the platform's price book has them. */
export const HARDWARE = [
  { sku: "gpu-l40s", price: 0.000975 },
  { sku: "gpu-a100-80gb", price: 0.0014 },
  { sku: "gpu-h100", price: 0.001525 },
] as const;
export const GPUS_PER_HOST = 8;

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

export interface Deployment {
  /** index into HARDWARE */
  hardware: number;
  /** boot and setup on a host that has its image and weights */
  start_ms: number;
  /** what comes before that on a host that has not */
  fetch_ms: number;
  /** busy GPUs over the whole trace, on average: what an operator who knows the load would plan with */
  mean_load: number;
  max_instances: number;
}

export interface Trace {
  kind: Kind;
  seed: number;
  duration_ms: number;
  /** each with GPUS_PER_HOST devices of HARDWARE[i modulo its length] */
  hosts: number;
  deployments: Deployment[];
  /** one entry for each prediction, in order of arrival: milliseconds since the start, index of its deployment, how long it runs, whose it is */
  arrives_at: Float64Array;
  deployment: Uint32Array;
  run_ms: Float64Array;
  account: Uint16Array;
}

/** What one deployment gets, before all are merged. */
interface Load extends Omit<Deployment, "mean_load"> {
  arrivals: number[];
  runs: number[];
  accounts: number;
}

/** Hosts come in threes, one of each hardware. */
const HOSTS: Record<Kind, number> = { poisson: 15, diurnal: 12, flash: 42, heavy: 30, zipf: 123, "zipf-large": 1_250 };
const HOURS: Record<Kind, number> = { poisson: 1.5, diurnal: 96, flash: 2, heavy: 3, zipf: 2, "zipf-large": 2 };

export function makeTrace(kind: Kind, seed: number): Trace {
  const duration = HOURS[kind] * HOUR;
  const at = (i: number): Random => new Random(seed, `${kind}/${i}`);
  const loads = ((): Load[] => {
    if (kind === "poisson") return many(16, (i) => poisson(i, at(i), duration));
    if (kind === "diurnal")
      return many(10, (i) => (i < 8 ? daily(i, at(i), duration) : dailyBatch(i, at(i), duration)));
    if (kind === "flash") return many(8, (i) => flashCrowd(i, at(i), duration));
    if (kind === "heavy") return many(12, (i) => heavyTailed(i, at(i), duration));
    return catalog(new Random(seed, kind), at, duration, kind === "zipf" ? 50_000 : 1_000_000);
  })();
  return merge(kind, seed, duration, loads);
}

function many(count: number, of: (i: number) => Load): Load[] {
  return Array.from({ length: count }, (_, i) => of(i));
}

/** Large models take longer to start, and longer to run. */
function shape(i: number, random: Random): Omit<Deployment, "mean_load"> {
  const start_ms = random.logBetween(10, 90) * SECOND;
  return {
    hardware: i % HARDWARE.length,
    start_ms,
    fetch_ms: start_ms * random.between(0.3, 1),
    max_instances: 1_000,
  };
}

/** Arrivals at a rate that varies between 0 and `most` (per millisecond), by thinning. */
function arrive(random: Random, duration: number, most: number, rate: (at: number) => number): number[] {
  const arrivals: number[] = [];
  for (let at = random.exponential(1 / most); at < duration; at += random.exponential(1 / most)) {
    if (random.uniform() * most < rate(at)) arrivals.push(at);
  }
  return arrivals;
}

function usualRuns(random: Random, count: number, mean: number): number[] {
  return Array.from({ length: count }, () => random.logNormal(mean, 0.5));
}

function poisson(i: number, random: Random, duration: number): Load {
  const mean = random.logBetween(2, 30) * SECOND;
  const rate = random.logBetween(0.02, 4) / mean;
  const arrivals = arrive(random, duration, rate, () => rate);
  return { ...shape(i, random), arrivals, runs: usualRuns(random, arrivals.length, mean), accounts: 10 };
}

/** A sine of the day, each with its own hour; odd ones sleep outside office hours (nine hours a day). */
function daily(i: number, random: Random, duration: number): Load {
  const mean = random.logBetween(5, 40) * SECOND;
  const most = random.logBetween(0.3, 3) / MINUTE;
  const peak = random.between(0, 24) * HOUR;
  const isOffice = i % 2 === 1;
  const rate = (at: number): number => {
    const fromPeak = (at - peak) / (24 * HOUR);
    const wave = 0.52 + 0.48 * Math.cos(2 * Math.PI * fromPeak);
    const hours = Math.abs(fromPeak - Math.round(fromPeak)) * 24;
    return isOffice && hours > 4.5 ? 0 : most * wave;
  };
  const arrivals = arrive(random, duration, most, rate);
  return { ...shape(i, random), arrivals, runs: usualRuns(random, arrivals.length, mean), accounts: 20 };
}

/** Once a day, within two minutes of its hour, 150 predictions in five minutes; nothing else. */
function dailyBatch(i: number, random: Random, duration: number): Load {
  const mean = random.logBetween(5, 20) * SECOND;
  const hour = random.between(0, 24) * HOUR;
  const arrivals: number[] = [];
  for (let day = 0; day * 24 * HOUR < duration; day++) {
    const begin = day * 24 * HOUR + hour + random.between(-2, 2) * MINUTE;
    for (let n = 0; n < 150; n++) arrivals.push(begin + random.uniform() * 5 * MINUTE);
  }
  const inside = arrivals.filter((at) => at >= 0 && at < duration).sort((a, b) => a - b);
  return { ...shape(i, random), arrivals: inside, runs: usualRuns(random, inside.length, mean), accounts: 1 };
}

/** At two times of the trace, at least twenty minutes after its start and from each other, the rate is 100 times as high for five minutes. */
function flashCrowd(i: number, random: Random, duration: number): Load {
  const quiet = random.logBetween(0.3, 2) / MINUTE;
  const mean = random.logBetween(3, 10) * SECOND;
  const crowds = [random.between(20, 55), random.between(75, 110)].map((minute) => minute * MINUTE);
  const isCrowd = (at: number): boolean => crowds.some((begin) => at >= begin && at < begin + 5 * MINUTE);
  const arrivals = arrive(random, duration, quiet * 100, (at) => (isCrowd(at) ? quiet * 100 : quiet));
  return { ...shape(i, random), arrivals, runs: usualRuns(random, arrivals.length, mean), accounts: 50 };
}

function heavyTailed(i: number, random: Random, duration: number): Load {
  const least = random.logBetween(1, 5) * SECOND;
  const rate = random.logBetween(0.05, 4) / (least * 3);
  const arrivals = arrive(random, duration, rate, () => rate);
  const runs = arrivals.map(() => random.pareto(least, 1.5, HOUR));
  return { ...shape(i, random), arrivals, runs, accounts: 10 };
}

const MODELS = 50_000;
const ZIPF_EXPONENT = 1.5;
const POPULAR = 100;
const SESSION_PREDICTIONS = 5;
const SESSION_PAUSE_MS = 20 * SECOND;

function catalog(random: Random, at: (i: number) => Random, duration: number, count: number): Load[] {
  const weights = Array.from({ length: MODELS }, (_, i) => (i + 1) ** -ZIPF_EXPONENT);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight, rank) => {
    const own = at(rank);
    const habit = random.uniform();
    const share = (count * weight) / total;
    const arrivals =
      habit < 0.2 && rank >= POPULAR
        ? scheduled(own, duration, share)
        : habit < 0.4
          ? arrive(own, duration, share / duration, () => share / duration)
          : sessions(own, duration, share);
    // The few that most calls go to are small ones: 38 % of all are for the first.
    const mean = own.logBetween(2, rank < 10 ? 10 : 60) * SECOND;
    return {
      ...shape(rank, own),
      arrivals,
      runs: usualRuns(own, arrivals.length, mean),
      accounts: rank < POPULAR ? 200 : 5,
    };
  });
}

function sessions(random: Random, duration: number, share: number): number[] {
  const rate = share / SESSION_PREDICTIONS / duration;
  const arrivals = arrive(random, duration, rate, () => rate).flatMap((begin) => {
    const session = [begin];
    let last = begin;
    while (random.uniform() < 1 - 1 / SESSION_PREDICTIONS) {
      last += random.exponential(SESSION_PAUSE_MS);
      session.push(last);
    }
    return session;
  });
  return arrivals.filter((arrival) => arrival < duration).sort((a, b) => a - b);
}

/** Every 5, 10, 15, 30 or 60 minutes, up to ten seconds late, as many predictions as its share asks for; one of a smaller share runs once or not at all. */
function scheduled(random: Random, duration: number, share: number): number[] {
  const periods = [5, 10, 15, 30, 60].map((minutes) => minutes * MINUTE);
  const affordable = periods.filter((period) => duration / period <= share);
  const period = affordable[Math.floor(random.uniform() * affordable.length)];
  if (period === undefined) return random.uniform() < share ? [random.uniform() * duration] : [];
  const each = Math.round((share * period) / duration);
  const arrivals: number[] = [];
  for (let tick = random.uniform() * period; tick < duration; tick += period) {
    for (let n = 0; n < each; n++) arrivals.push(tick + random.uniform() * 10 * SECOND);
  }
  return arrivals.filter((arrival) => arrival < duration).sort((a, b) => a - b);
}

function merge(kind: Kind, seed: number, duration_ms: number, loads: Load[]): Trace {
  const random = new Random(seed, `${kind}/accounts`);
  const all = loads.flatMap(({ arrivals, runs, accounts }, deployment) =>
    arrivals.map((at, i) => ({
      at,
      deployment,
      run: runs[i] ?? 0,
      account: Math.floor(random.uniform() ** 2 * accounts),
    })),
  );
  all.sort((a, b) => a.at - b.at || a.deployment - b.deployment);
  return {
    kind,
    seed,
    duration_ms,
    hosts: HOSTS[kind],
    deployments: loads.map(({ arrivals: _arrivals, runs, accounts: _accounts, ...deployment }) => ({
      ...deployment,
      mean_load: runs.reduce((sum, run) => sum + run, 0) / duration_ms,
    })),
    arrives_at: Float64Array.from(all, (one) => one.at),
    deployment: Uint32Array.from(all, (one) => one.deployment),
    run_ms: Float64Array.from(all, (one) => one.run),
    account: Uint16Array.from(all, (one) => one.account),
  };
}
