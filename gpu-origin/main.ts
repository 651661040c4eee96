/**
 * gpu-origin: runs models on this host for the edge. SIGTERM or SIGINT drains: running predictions get up to 30 s, then end with a reason; exit 0 within
 * 35 s. A model that the user named and that is broken ends it with exit 1.
 */
import { parseConfig } from "./config.ts";
import { createLog, logProgress } from "./log.ts";
import { Origin } from "./origin.ts";

/** For predictions that run when the end is asked for; the rest of the 30 s is for telling the edge. */
const DRAIN_GRACE_MS = 27_000;
/** Whatever hangs, the process is gone by then. */
const EXIT_DEADLINE_MS = 34_500;

async function main(): Promise<void> {
  const parsed = parseConfig(process.env);
  const log = createLog(parsed.ok ? parsed.config.logLevel : "info");
  const fatal = (detail: string, model?: string): void => {
    logProgress(log, { step: "fatal", ...(model === undefined ? {} : { model }), detail });
    process.exitCode = 1;
  };
  if (!parsed.ok) return fatal(parsed.detail);
  const origin = new Origin(parsed.config, withoutOwn(process.env), log);
  try {
    await origin.listen();
  } catch (error) {
    return fatal(error instanceof Error ? error.message : String(error));
  }

  const end = async (code: number, graceMs: number): Promise<void> => {
    if (origin.isStopping) return;
    setTimeout(() => process.exit(code), EXIT_DEADLINE_MS).unref();
    await origin.shutDown(graceMs);
    process.exit(code);
  };
  process.on("SIGTERM", () => void end(0, DRAIN_GRACE_MS));
  process.on("SIGINT", () => void end(0, DRAIN_GRACE_MS));

  if (!(await origin.join())) return;
  const results = await origin.prepareModels();
  const broken = results.find((result) => result.kind === "failed" && result.isFault);
  if (broken?.kind === "failed" && parsed.config.modelsAreExplicit && !origin.isStopping) {
    fatal(broken.reason, broken.name);
    await end(1, 0);
  }
}

/** What models and their build commands inherit: nothing of ours, above all no token. */
function withoutOwn(env: NodeJS.ProcessEnv): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith("COGWAY_")));
}

await main();
