/** What coglet's words about itself mean. Pure. */
import type { CogHealth } from "./cog-client.ts";

const ERROR_CHARACTERS_MAX = 500;

/** Death of the worker is for ever; the model's own failed health check is not. Only the words tell them apart. */
export function isWorkerDead(health: CogHealth): boolean {
  return health.user_healthcheck_error?.includes("healthcheck channel closed") ?? false;
}

/** Class and message of the exception that setup raised, out of coglet's one line or of the traceback on stderr. */
export function setupError(health: CogHealth, logs: string): string {
  const text = health.setup?.logs ?? "";
  const raised = /Setup failed: (?:setup failed: )?(?<error>.+)/.exec(text)?.groups?.error;
  if (raised !== undefined) return raised.trim().slice(0, ERROR_CHARACTERS_MAX);
  if (text.includes("timed out")) return "timed out";
  if (text.includes("crashed")) return "the model's process crashed while it loaded";
  const last = text.trim().split("\n").at(-1) || logs.trim().split("\n").at(-1);
  return (last || "failed without a word").slice(0, ERROR_CHARACTERS_MAX);
}
