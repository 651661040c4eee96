/**
 * What a deployment remembers of when its work comes, and what it expects from that: how much comes now, how long an idle instance is worth its time, and when
 * to boot one before it is asked for. Pure; all state is bounded and one small JSON value. Old days and old gaps fade.
 *
 * Work needs a number of instances: its *level*. A level's gap is the time from its last use to its next one, so that each instance beyond the first has gaps of
 * its own. What an idle instance costs is weighed against what a start costs, over the histogram of the level's gaps: {@link planIdle} finds the cheapest
 * times to let it go and to boot it again.
 */

/** Arrivals are counted in slices of this; the newest two are the panic window, all of them the stable one. */
const SLICE_MS = 6_000;
const SLICES = 10;
export const STABLE_WINDOW_MS = SLICE_MS * SLICES;
export const PANIC_WINDOW_MS = SLICE_MS;

/** Gap buckets double every four: neighbours differ by 19 %. The first begins at 0, the second at one second. */
const GAP_UNIT_MS = 1_000;
const BUCKETS_PER_DOUBLING = 4;
/** The last one begins at 2^17 s, 36 hours: what comes more rarely is never waited for. */
const GAP_BUCKETS = 69;
/** Gaps of one level that count; beyond this all are halved. */
const GAPS_MAX = 128;
/** Levels that are told apart: 1 to 4, then two for each doubling. */
const LEVELS_MAX = 16;

/** A day in quarters of an hour, UTC. */
const QUARTER_MS = 900_000;
const QUARTERS = 96;
const HOUR_MS = 3_600_000;
/** What yesterday counts against the days before. */
const DAY_WEIGHT = 0.4;
/** A quarter is expected to be busy once this share of its recent days was. Two days in a row are enough. */
const EXPECTED_SHARE = 0.6;

/** Before anything is known, gaps are as likely in any bucket; all of that belief weighs as much as this many gaps. */
const PRIOR_GAPS = 1;
/** A boot ahead of its work may be in vain or late: it is made where it pays even at so many times its own time. */
const BOOT_PRICE_FACTOR = 2;
/** Nothing goes to come back sooner than this: it stays. */
const AWAY_MIN_MS = 60_000;
/** With fewer gaps than this a level's idle time is the default. */
const GAPS_MIN = 3;

interface Level {
  /** since when no work needs it; null while some does, or never did */
  idle_since: number | null;
  /** gaps by bucket */
  gaps: Record<string, number>;
}

export interface Arrivals {
  /** number of the newest slice since the epoch, and arrivals of it and those before, newest first */
  slice: number;
  counts: number[];
  levels: Level[];
  /** number of the quarter under way since the epoch, and the most instances that it needed so far */
  quarter: number;
  peak: number;
  /** by quarter of the day: the share of days that needed any, and how many those needed; percent and hundredths, faded by day */
  shares: number[];
  peaks: number[];
}

export const NO_ARRIVALS: Arrivals = {
  slice: 0,
  counts: [],
  levels: [],
  quarter: 0,
  peak: 0,
  shares: [],
  peaks: [],
};

/** How many instances the work needs: those that are full, and one more for what waits beside them. */
export function neededInstances(leased: number, queued: number, slots: number): number {
  return Math.ceil(leased / Math.max(1, slots)) + (queued > 0 && leased % Math.max(1, slots) === 0 ? 1 : 0);
}

/** Work came or went: `before` and `after` are what it needed and needs (instances); `came` is how many predictions came. */
export function noteWork(
  arrivals: Arrivals,
  change: { before: number; after: number; came: number },
  now: number,
): Arrivals {
  const { before, after, came } = change;
  let next = came > 0 ? countArrivals(arrivals, came, now) : arrivals;
  next = inQuarter(next, Math.max(before, after), now);
  if (before === after) return next;
  const levels = [...next.levels];
  const [low, high] = [levelOf(Math.min(before, after) + 1), levelOf(Math.max(before, after))];
  for (let n = low; n <= high; n++) {
    const level = levels[n - 1] ?? { idle_since: null, gaps: {} };
    levels[n - 1] = after > before ? endGap(level, now) : { ...level, idle_since: now };
  }
  return { ...next, levels };
}

function levelOf(instances: number): number {
  if (instances <= 4) return Math.max(1, instances);
  return Math.min(LEVELS_MAX, 4 + Math.ceil(Math.log2(instances / 4) * 2));
}

function countArrivals(arrivals: Arrivals, came: number, now: number): Arrivals {
  const slice = Math.floor(now / SLICE_MS);
  const passed = slice - arrivals.slice;
  const counts =
    passed <= 0 ? [...arrivals.counts] : [...new Array<number>(Math.min(passed, SLICES)).fill(0), ...arrivals.counts];
  counts[0] = (counts[0] ?? 0) + came;
  return { ...arrivals, slice: Math.max(slice, arrivals.slice), counts: counts.slice(0, SLICES) };
}

function endGap(level: Level, now: number): Level {
  if (level.idle_since === null) return level;
  const bucket = bucketOf(now - level.idle_since);
  const gaps: Record<string, number> = { ...level.gaps, [bucket]: (level.gaps[bucket] ?? 0) + 1 };
  const isFull = sumOf(gaps) > GAPS_MAX;
  const kept = Object.entries(gaps).flatMap(([key, count]) => (count > 1 ? [[key, Math.floor(count / 2)]] : []));
  return { idle_since: null, gaps: isFull ? Object.fromEntries(kept) : gaps };
}

function bucketOf(gapMs: number): number {
  if (gapMs < GAP_UNIT_MS) return 0;
  return Math.min(GAP_BUCKETS - 1, 1 + Math.floor(Math.log2(gapMs / GAP_UNIT_MS) * BUCKETS_PER_DOUBLING));
}

/** Where a bucket begins, milliseconds. */
function edgeOf(bucket: number): number {
  return bucket === 0 ? 0 : GAP_UNIT_MS * 2 ** ((bucket - 1) / BUCKETS_PER_DOUBLING);
}
const EDGES = Array.from({ length: GAP_BUCKETS + 1 }, (_, bucket) => edgeOf(bucket));

function sumOf(gaps: Record<string, number>): number {
  let sum = 0;
  for (const bucket in gaps) sum += gaps[bucket] ?? 0;
  return sum;
}

/** Closes quarters that have passed, and takes in what the one under way needs. */
function inQuarter(arrivals: Arrivals, needed: number, now: number): Arrivals {
  const quarter = Math.floor(now / QUARTER_MS);
  if (quarter <= arrivals.quarter) return needed <= arrivals.peak ? arrivals : { ...arrivals, peak: needed };
  if (arrivals.quarter === 0) return { ...arrivals, quarter, peak: needed };
  const shares = arrivals.shares.length === 0 ? new Array<number>(QUARTERS).fill(0) : [...arrivals.shares];
  const peaks = arrivals.peaks.length === 0 ? new Array<number>(QUARTERS).fill(0) : [...arrivals.peaks];
  // After a week of silence nothing is left that could fade.
  const first = Math.max(arrivals.quarter, quarter - 7 * QUARTERS);
  for (let n = first; n < quarter; n++) {
    const at = n % QUARTERS;
    const peak = n === arrivals.quarter ? arrivals.peak : 0;
    shares[at] = Math.round((shares[at] ?? 0) * (1 - DAY_WEIGHT) + (peak > 0 ? 100 : 0) * DAY_WEIGHT);
    if (peak > 0) {
      const known = peaks[at] ?? 0;
      peaks[at] = Math.round(known === 0 ? peak * 100 : known * (1 - DAY_WEIGHT) + peak * 100 * DAY_WEIGHT);
    }
  }
  return { ...arrivals, quarter, peak: needed, shares, peaks };
}

/** Arrivals a millisecond in both windows. Young histories are measured over the time that they have. */
export function arrivalRates(arrivals: Arrivals, now: number): { stable: number; panic: number; arrivals: number } {
  const current = Math.floor(now / SLICE_MS);
  const skipped = Math.max(0, current - arrivals.slice);
  const partial = Math.max(1, now - current * SLICE_MS);
  let all = 0;
  let newest = 0;
  let oldest = 0;
  for (const [n, count] of arrivals.counts.entries()) {
    const age = n + skipped;
    if (age >= SLICES) break;
    all += count;
    if (age <= 1) newest += count;
    if (count > 0) oldest = age;
  }
  const seen = Math.min(STABLE_WINDOW_MS, Math.max(PANIC_WINDOW_MS, oldest * SLICE_MS + partial));
  return {
    stable: Math.max(0, all - 1) / seen,
    panic: Math.max(0, newest - 1) / (PANIC_WINDOW_MS + partial),
    arrivals: all,
  };
}

/** What times are worth, in milliseconds of one idle instance. */
export interface StartCosts {
  /** the instance's own time until it is ready */
  start_ms: number;
  /** what a caller's wait costs when the instance is missing, the start included */
  missing_ms: number;
}

export interface IdlePlan {
  /** let it go after so long without use */
  keep_ms: number;
  /** begin to boot it again so long after its last use, and keep it until then; in order */
  boots: { after_ms: number; until_ms: number }[];
}

/** The plan for the instance beyond `instances - 1` others. `default_ms` is for what has no history. */
export function planOf(arrivals: Arrivals, instances: number, costs: StartCosts, default_ms: number): IdlePlan {
  const gaps = arrivals.levels[levelOf(instances) - 1]?.gaps ?? {};
  if (sumOf(gaps) < GAPS_MIN) return { keep_ms: default_ms, boots: [] };
  return planIdle(gaps, costs);
}

/**
 * The cheapest plan for one gap whose length is one of `gaps`, or anything else with the little weight of the prior. Backwards over the buckets: at each one
 * the instance is there or not, and either may change. Being there costs the time until the gap ends, a boot its own time (twice), and a gap that ends while
 * it is not there costs `missing_ms`. All sums are over all gaps that last so long.
 */
export function planIdle(gaps: Record<string, number>, { start_ms, missing_ms }: StartCosts): IdlePlan {
  const prior = PRIOR_GAPS / GAP_BUCKETS;
  const stay: boolean[] = [];
  const boot: boolean[] = [];
  // Of the last bucket nobody waits for the end.
  let longer = (gaps[GAP_BUCKETS - 1] ?? 0) + prior;
  let without = longer * missing_ms;
  let there = without;
  for (let bucket = GAP_BUCKETS - 2; bucket >= 0; bucket--) {
    const here = (gaps[bucket] ?? 0) + prior;
    const width = (EDGES[bucket + 1] ?? 0) - (EDGES[bucket] ?? 0);
    const staying = (here / 2 + longer) * width + there;
    const missing = here * missing_ms + without;
    longer += here;
    const booting = longer * start_ms * BOOT_PRICE_FACTOR + staying;
    stay[bucket] = staying < missing;
    boot[bucket] = booting < missing;
    there = Math.min(staying, missing);
    without = Math.min(missing, booting);
  }
  let keep_ms = 0;
  const boots: IdlePlan["boots"] = [];
  let isThere = true;
  for (let bucket = 0; bucket < GAP_BUCKETS - 1; bucket++) {
    isThere = (isThere ? stay[bucket] : boot[bucket]) === true;
    if (!isThere) continue;
    const [from, until_ms] = [(EDGES[bucket] ?? 0) - start_ms, EDGES[bucket + 1] ?? 0];
    const last = boots.at(-1);
    // Also what would come back too soon stays.
    if (from - (last?.until_ms ?? keep_ms) >= AWAY_MIN_MS) boots.push({ after_ms: from, until_ms });
    else if (last === undefined) keep_ms = until_ms;
    else last.until_ms = until_ms;
  }
  return { keep_ms, boots };
}

/** Since when no work needs the first instance; null while some does, or none ever did. */
export function idleSince(arrivals: Arrivals): number | null {
  return arrivals.levels[0]?.idle_since ?? null;
}

/**
 * How many instances the days before say are needed at `at`, where being ready for them is worth it: an instance that is ready at the beginning of a quarter
 * waits half of it on average. Where work begins these are all that it needed, so that a daily batch finds them; where the quarter before is expected to be
 * busy, too, what runs then follows the load, and one is enough.
 */
export function expectedInstances(arrivals: Arrivals, at: number, { missing_ms }: StartCosts): number {
  const quarter = Math.floor(at / QUARTER_MS) % QUARTERS;
  const share = (arrivals.shares[quarter] ?? 0) / 100;
  if (share < EXPECTED_SHARE || share * missing_ms < QUARTER_MS / 2) return 0;
  const before = (arrivals.shares[(quarter + QUARTERS - 1) % QUARTERS] ?? 0) / 100;
  return before < EXPECTED_SHARE ? Math.round((arrivals.peaks[quarter] ?? 0) / 100) : 1;
}

/** How often an hour its first instance is needed anew, by its gaps; once while nothing is known. */
export function usesPerHour(arrivals: Arrivals, now: number): number {
  const level = arrivals.levels[0];
  if (level === undefined) return 1;
  let gaps = 0;
  let ms = level.idle_since === null ? 0 : now - level.idle_since;
  for (const bucket in level.gaps) {
    const count = level.gaps[bucket] ?? 0;
    gaps += count;
    ms += (count * ((EDGES[Number(bucket)] ?? 0) + (EDGES[Number(bucket) + 1] ?? 0))) / 2;
  }
  return ((gaps + 1) * HOUR_MS) / Math.max(HOUR_MS, ms);
}

/** When the next quarter begins. */
export function nextQuarterAt(now: number): number {
  return (Math.floor(now / QUARTER_MS) + 1) * QUARTER_MS;
}

/** When the next quarter begins that is expected to need more than `instances`; null within a day. */
export function nextExpectedAt(arrivals: Arrivals, instances: number, now: number, costs: StartCosts): number | null {
  if (arrivals.shares.length === 0) return null;
  for (let n = 0, at = nextQuarterAt(now); n < QUARTERS; n++, at += QUARTER_MS) {
    if (expectedInstances(arrivals, at, costs) > instances) return at;
  }
  return null;
}
