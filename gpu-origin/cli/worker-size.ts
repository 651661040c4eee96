/** What the platform bounds of a Worker when it is uploaded, read from what wrangler says. Pure. https://developers.cloudflare.com/workers/platform/limits/ */

/** The plan without a fee takes 3 MiB compressed, which leaves room to grow on any other. */
export const GZIP_KIB_MAX = 3 * 1_024;
/** The platform gives a Worker 1 s for its start; its machines are slower than a developer's, which this leaves room for. */
export const START_MS_MAX = 400;

/** Null when it holds, else what to do. `text` is what `wrangler deploy --dry-run` said. */
export function sizeFault(text: string): string | null {
  const gzip = /gzip: ([\d.]+) KiB/.exec(text)?.[1];
  if (gzip === undefined) return `wrangler deploy --dry-run said no size:\n${text}`;
  if (Number(gzip) <= GZIP_KIB_MAX) return null;
  return `The Worker has ${gzip} KiB compressed, more than ${GZIP_KIB_MAX}: see what grew (wrangler deploy --dry-run --outdir DIR --metafile), and take it out or load it from R2.`;
}

/** Time of the start on this machine in which the Worker worked, milliseconds. `text` is what `wrangler check startup` said; null where it said nothing of it. */
export function startMs(text: string): number | null {
  const active = /Active: ([\d.]+) ms/.exec(text)?.[1];
  return active === undefined ? null : Number(active);
}

/** Of the fastest of several starts: what else runs on this machine makes one slower, and nothing makes it faster. */
export function startFault(starts: readonly number[]): string | null {
  const fastest = Math.min(...starts);
  if (fastest <= START_MS_MAX) return null;
  return `The Worker takes ${fastest} ms to start, more than ${START_MS_MAX}: open the profile (wrangler check startup) and make what it does before its first request when it is first needed.`;
}
