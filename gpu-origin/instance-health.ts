/** What coglet's answer to a health check, or its silence, means for its instance. Pure. */
import type { CogHealth } from "./cog-client.ts";

/** coglet starts its worker within milliseconds; without one after this long the environment's `python` lacks coglet, and it would start for ever. */
const WORKERLESS_MS = 6_000;
/** The environment is made before; this covers the start of Python until the port listens. */
const LISTEN_TIMEOUT_MS = 60_000;
/** coglet itself ends a setup in time; one that is not ended so much later is ended from here. */
const SETUP_GRACE_MS = 2_000;
const ERROR_CHARACTERS_MAX = 500;

/** What is known of a server besides its answer. */
export interface ServerFacts {
  /** it was ready before */
  isServing: boolean;
  /** since its start */
  elapsed_ms: number;
  /** since it answered first */
  setup_elapsed_ms: number;
  setup_timeout_ms: number;
  isWorkerAlive: () => boolean;
  logs: () => string;
}

export type HealthVerdict =
  | { kind: "starting" }
  /** it answered before, and not this time */
  | { kind: "silent" }
  /** with a reason where its model says that it is not well */
  | { kind: "ready"; reason: string | null }
  /** it cannot start */
  | { kind: "failed"; reason: string }
  | { kind: "crashed"; reason: string };

/** `health`: null where nothing answered. */
export function judgeHealth(health: CogHealth | null, server: ServerFacts): HealthVerdict {
  if (health === null) {
    if (server.isServing) return { kind: "silent" };
    if (server.elapsed_ms < LISTEN_TIMEOUT_MS) return { kind: "starting" };
    return { kind: "failed", reason: `boot: the server did not listen within ${LISTEN_TIMEOUT_MS / 1000} s` };
  }
  switch (health.status) {
    case "STARTING":
      if (server.elapsed_ms > WORKERLESS_MS && !server.isWorkerAlive()) {
        const reason = "boot: the environment's python does not start coglet's worker (is coglet installed in it?)";
        return { kind: "failed", reason };
      }
      if (server.setup_elapsed_ms > server.setup_timeout_ms + SETUP_GRACE_MS) {
        return { kind: "failed", reason: `setup: not done within ${Math.round(server.setup_timeout_ms / 1000)} s` };
      }
      return { kind: "starting" };
    case "SETUP_FAILED":
      return { kind: "failed", reason: `setup: ${setupError(health, server.logs())}` };
    case "UNHEALTHY":
      if (isWorkerDead(health)) return { kind: "crashed", reason: "its worker process died" };
      // The model's own health check failed: it still answers predictions, and says so.
      return { kind: "ready", reason: health.user_healthcheck_error ?? "the model's health check fails" };
    default:
      return { kind: "ready", reason: null };
  }
}

/** Death of the worker is for ever; the model's own failed health check is not. Only the words tell them apart. */
function isWorkerDead(health: CogHealth): boolean {
  return health.user_healthcheck_error?.includes("healthcheck channel closed") ?? false;
}

/** Class and message of the exception that setup raised, out of coglet's one line or of the traceback on stderr. */
function setupError(health: CogHealth, logs: string): string {
  const text = health.setup?.logs ?? "";
  const raised = /Setup failed: (?:setup failed: )?(?<error>.+)/.exec(text)?.groups?.error;
  if (raised !== undefined) return raised.trim().slice(0, ERROR_CHARACTERS_MAX);
  if (text.includes("timed out")) return "timed out";
  if (text.includes("crashed")) return "the model's process crashed while it loaded";
  const last = text.trim().split("\n").at(-1) || logs.trim().split("\n").at(-1);
  return (last || "failed without a word").slice(0, ERROR_CHARACTERS_MAX);
}
