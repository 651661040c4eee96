/** Durations as people write them in headers and settings. Pure. */

const UNIT_MS: Record<string, number> = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000 };

/** Milliseconds of `90`, `30s`, `1h30m45s`, `7d`: bare numbers are seconds, units fall in size. Null for anything else. */
export function parseDuration(text: string): number | null {
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1_000;
  const match = /^(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?$/.exec(text);
  if (match === null || text === "") return null;
  return ["d", "h", "m", "s"].reduce((sum, unit, i) => sum + Number(match[i + 1] ?? 0) * (UNIT_MS[unit] ?? 0), 0);
}
