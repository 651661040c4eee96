/**
 * How one version has run: times as bounded histograms, outcomes as counts. Pure values that add up: deployments keep what they have not reported, the
 * counter of the model keeps the sum. Old runs fade, so that a version which became slow looks slow.
 */
/** Buckets for each doubling of the value: neighbours differ by 19 %. */
const BUCKETS_PER_DOUBLING = 4;
/** The last bucket begins at 2^30: 12 days in milliseconds, more units than one prediction makes. */
const BUCKET_MAX = 121;
/** A histogram or the outcomes that hold more than this are halved: what is newer weighs more, and sums stay small. */
const SAMPLES_MAX = 2_000;
/** Kinds of units (images, tokens …) of one version. */
const UNITS_MAX = 8;

/** Values by their magnitude: `counts[n]` of them are in bucket n, which spans [2^((n-1)/4), 2^(n/4)); those below 1 are in bucket 0. */
export interface Histogram {
  counts: Record<string, number>;
  count: number;
  sum: number;
  /** the largest one that was ever seen */
  max: number;
}

const EMPTY_HISTOGRAM: Histogram = { counts: {}, count: 0, sum: 0, max: 0 };

export interface RunHistory {
  /** ended predictions, ever */
  runs: number;
  /** recent ends, old ones faded */
  succeeded: number;
  /** by the model or its input; those of the platform are not among them */
  failed: number;
  platform_failures: number;
  canceled: number;
  /** of the recent ends that had a slot: those that waited for an instance to start */
  cold: number;
  leased: number;
  /** epoch milliseconds; null before the first */
  last_success_at: number | null;
  /** milliseconds of model time of runs that succeeded */
  run_ms: Histogram;
  /** milliseconds from creation to a slot */
  queue_ms: Histogram;
  /** milliseconds that instances took to start their process, and then to load the model */
  boot_ms: Histogram;
  setup_ms: Histogram;
  /** what runs that succeeded made or read beyond time, by name (images, tokens) */
  units: Record<string, Histogram>;
}

export const NO_HISTORY: RunHistory = {
  runs: 0,
  succeeded: 0,
  failed: 0,
  platform_failures: 0,
  canceled: 0,
  cold: 0,
  leased: 0,
  last_success_at: null,
  run_ms: EMPTY_HISTOGRAM,
  queue_ms: EMPTY_HISTOGRAM,
  boot_ms: EMPTY_HISTOGRAM,
  setup_ms: EMPTY_HISTOGRAM,
  units: {},
};

/** The end of one prediction. */
export interface RunEnd {
  outcome: "succeeded" | "failed" | "canceled" | "aborted";
  platform_failure: boolean;
  run_ms: number;
  /** null: it never had a slot */
  queue_ms: number | null;
  /** it waited for an instance to start */
  is_cold: boolean;
  units?: Record<string, number> | undefined;
  ended_at: number;
}

export function withRun(history: RunHistory, end: RunEnd): RunHistory {
  const isSuccess = end.outcome === "succeeded";
  const isFailure = end.outcome === "failed";
  const next: RunHistory = {
    ...history,
    runs: history.runs + 1,
    succeeded: history.succeeded + (isSuccess ? 1 : 0),
    failed: history.failed + (isFailure && !end.platform_failure ? 1 : 0),
    platform_failures: history.platform_failures + (isFailure && end.platform_failure ? 1 : 0),
    canceled: history.canceled + (isSuccess || isFailure ? 0 : 1),
    leased: history.leased + (end.queue_ms === null ? 0 : 1),
    cold: history.cold + (end.queue_ms !== null && end.is_cold ? 1 : 0),
    last_success_at: isSuccess ? Math.max(history.last_success_at ?? 0, end.ended_at) : history.last_success_at,
    run_ms: isSuccess ? withValue(history.run_ms, end.run_ms) : history.run_ms,
    queue_ms: end.queue_ms === null ? history.queue_ms : withValue(history.queue_ms, end.queue_ms),
  };
  if (isSuccess && end.units !== undefined) {
    const units = { ...history.units };
    for (const [name, value] of Object.entries(end.units))
      units[name] = withValue(units[name] ?? EMPTY_HISTOGRAM, value);
    next.units = Object.fromEntries(Object.entries(units).slice(0, UNITS_MAX));
  }
  return faded(next);
}

/** An instance became ready. */
export function withStart(history: RunHistory, boot_ms: number | undefined, setup_ms: number | undefined): RunHistory {
  return {
    ...history,
    boot_ms: boot_ms === undefined ? history.boot_ms : withValue(history.boot_ms, boot_ms),
    setup_ms: setup_ms === undefined ? history.setup_ms : withValue(history.setup_ms, setup_ms),
  };
}

export function mergeHistories(a: RunHistory, b: RunHistory): RunHistory {
  const names = [...new Set([...Object.keys(a.units), ...Object.keys(b.units)])].slice(0, UNITS_MAX);
  const last = Math.max(a.last_success_at ?? 0, b.last_success_at ?? 0);
  return faded({
    runs: a.runs + b.runs,
    succeeded: a.succeeded + b.succeeded,
    failed: a.failed + b.failed,
    platform_failures: a.platform_failures + b.platform_failures,
    canceled: a.canceled + b.canceled,
    cold: a.cold + b.cold,
    leased: a.leased + b.leased,
    last_success_at: last === 0 ? null : last,
    run_ms: mergeHistograms(a.run_ms, b.run_ms),
    queue_ms: mergeHistograms(a.queue_ms, b.queue_ms),
    boot_ms: mergeHistograms(a.boot_ms, b.boot_ms),
    setup_ms: mergeHistograms(a.setup_ms, b.setup_ms),
    units: Object.fromEntries(
      names.map((name) => [name, mergeHistograms(a.units[name] ?? EMPTY_HISTOGRAM, b.units[name] ?? EMPTY_HISTOGRAM)]),
    ),
  });
}

/** Outcomes fade together, so that their shares stay what they are. */
function faded(history: RunHistory): RunHistory {
  const { succeeded, failed, platform_failures, canceled, cold, leased } = history;
  if (succeeded + failed + platform_failures + canceled <= SAMPLES_MAX) return history;
  const half = Object.entries({ succeeded, failed, platform_failures, canceled, cold, leased }).map(([name, count]) => [
    name,
    Math.round(count / 2),
  ]);
  return { ...history, ...Object.fromEntries(half) };
}

function bucketOf(value: number): number {
  return value < 1 ? 0 : Math.min(BUCKET_MAX, 1 + Math.floor(Math.log2(value) * BUCKETS_PER_DOUBLING));
}

export function withValue(histogram: Histogram, value: number): Histogram {
  const bucket = bucketOf(value);
  const counts = { ...histogram.counts, [bucket]: (histogram.counts[bucket] ?? 0) + 1 };
  const max = Math.max(histogram.max, value);
  return bounded({ counts, count: histogram.count + 1, sum: histogram.sum + value, max });
}

function mergeHistograms(a: Histogram, b: Histogram): Histogram {
  const counts = { ...a.counts };
  for (const [bucket, count] of Object.entries(b.counts)) counts[bucket] = (counts[bucket] ?? 0) + count;
  return bounded({ counts, count: a.count + b.count, sum: a.sum + b.sum, max: Math.max(a.max, b.max) });
}

/** Halved while it holds more than {@link SAMPLES_MAX}; what was seen once long ago goes. */
function bounded(histogram: Histogram): Histogram {
  if (histogram.count <= SAMPLES_MAX) return histogram;
  const counts = Object.fromEntries(
    Object.entries(histogram.counts).flatMap(([bucket, count]) => (count > 1 ? [[bucket, Math.floor(count / 2)]] : [])),
  );
  const count = Object.values(counts).reduce((sum, n) => sum + n, 0);
  return bounded({ ...histogram, counts, count, sum: (histogram.sum * count) / histogram.count });
}

/** The value that a share `q` (0 to 1) of all is not above, within 10 %; null without any. */
export function quantile(histogram: Histogram, q: number): number | null {
  if (histogram.count === 0) return null;
  const rank = Math.max(1, Math.ceil(q * histogram.count));
  let seen = 0;
  const buckets = Object.keys(histogram.counts).map(Number);
  for (const bucket of buckets.sort((a, b) => a - b)) {
    seen += histogram.counts[bucket] ?? 0;
    // The middle of a bucket is as wrong upwards as downwards.
    if (seen >= rank) return Math.min(histogram.max, middleOf(bucket));
  }
  return histogram.max;
}

function middleOf(bucket: number): number {
  return bucket === 0 ? 0 : Math.round(2 ** ((bucket - 0.5) / BUCKETS_PER_DOUBLING));
}

export function meanOf(histogram: Histogram): number | null {
  return histogram.count === 0 ? null : histogram.sum / histogram.count;
}

/** Recent ends that were not canceled. */
export function endsOf({ succeeded, failed, platform_failures }: RunHistory): number {
  return succeeded + failed + platform_failures;
}

/** Of recent ends that were not canceled; null without one. */
export function successShare(history: RunHistory): number | null {
  const ends = endsOf(history);
  return ends === 0 ? null : history.succeeded / ends;
}

/** Of recent predictions that had a slot, those that waited for an instance to start; null without one. */
export function coldShare({ cold, leased }: RunHistory): number | null {
  return leased === 0 ? null : cold / leased;
}
