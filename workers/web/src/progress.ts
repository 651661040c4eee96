/** How far a trainer is, as its own log lines tell: a progress bar of tqdm, or `step 3/10`. */
const COUNTED = /(?:^|[\s|])(\d{1,9})\s?\/\s?(\d{1,9})(?=$|[\s,[:;)])/;
/** Of long logs only the end is read: what it says last is what counts. */
const CHARACTERS_READ = 4_096;

export interface Progress {
  done: number;
  total: number;
}

/** Null where no line counts. */
export function progressOf(logs: string): Progress | null {
  const lines = logs.slice(-CHARACTERS_READ).split(/[\r\n]+/);
  for (const line of lines.reverse()) {
    const counted = COUNTED.exec(line);
    if (counted === null) continue;
    const [done, total] = [Number(counted[1]), Number(counted[2])];
    if (total > 0 && done <= total) return { done, total };
  }
  return null;
}
