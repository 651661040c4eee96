/** Whether something grows, out of noisy samples. */

export interface Sample {
  at_s: number;
  value: number;
}

/**
 * How much the samples grow a minute, by their last two quarters: the lesser of both, since what leaks grows in each, and a step (a heap that becomes larger
 * once) in one. The first half is for what warms up.
 */
export function growthAMinute(samples: readonly Sample[]): number {
  const at = (share: number): number => Math.floor(samples.length * share);
  return 60 * Math.min(slope(samples.slice(at(0.5), at(0.75))), slope(samples.slice(at(0.75))));
}

/** The median of the slopes between all pairs of samples (Theil–Sen), a second: outliers do not make it. */
function slope(samples: readonly Sample[]): number {
  const slopes: number[] = [];
  for (const [n, a] of samples.entries()) {
    for (const b of samples.slice(n + 1)) slopes.push((b.value - a.value) / (b.at_s - a.at_s));
  }
  const sorted = slopes.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2;
}
