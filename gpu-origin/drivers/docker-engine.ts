/**
 * The connection to a container engine on its unix socket. The API's version is agreed with the engine, and again after it was away, since it may have been
 * upgraded.
 */
import { setTimeout as wait } from "node:timers/promises";
import Docker from "dockerode";
import { z } from "zod";

/** Newest version of the API whose description this code was written against; older ones lack nothing that is used, down to 1.41 (engine 20.10). */
const API_VERSION_MAX = "1.47";
const API_VERSION_MIN = "1.41";
/** Of calls that answer at once. */
export const CALL_TIMEOUT_MS = 15_000;
const SOCKET_PREFIX = "unix://";
const DEFAULT_SOCKET = "/var/run/docker.sock";

const VersionSchema = z.object({ ApiVersion: z.string(), MinAPIVersion: z.string().default("1.12") });

export class Engine {
  readonly docker: Docker;
  readonly socketPath: string;

  /** `host` is `unix:///path`, as in DOCKER_HOST; empty is the usual place. */
  constructor(host: string) {
    this.socketPath = host === "" ? DEFAULT_SOCKET : host.slice(SOCKET_PREFIX.length);
    this.docker = new Docker({ socketPath: this.socketPath });
  }

  /** Agrees on the API's version. Null, or one line that says why it cannot be used. */
  async negotiate(): Promise<string | null> {
    try {
      // A path without a version is answered by every engine.
      this.#setVersion(undefined);
      const { ApiVersion, MinAPIVersion } = VersionSchema.parse(await bounded(this.docker.version()));
      const version = chooseVersion(ApiVersion, MinAPIVersion);
      if (version === null) {
        return `the container engine speaks API ${MinAPIVersion} to ${ApiVersion}; ${API_VERSION_MIN} to ${API_VERSION_MAX} are known here`;
      }
      this.#setVersion(`v${version}`);
      return null;
    } catch (error) {
      return `no container engine answers at ${SOCKET_PREFIX}${this.socketPath} (${messageOf(error)}): start Docker, or name its socket in COGWAY_DOCKER_HOST`;
    }
  }

  /** Not in the types of docker-modem. */
  #setVersion(version: string | undefined): void {
    Object.assign(this.docker.modem, { version });
  }
}

/** The newest version that both know; null when there is none. */
export function chooseVersion(engineMax: string, engineMin: string): string | null {
  const chosen = compare(engineMax, API_VERSION_MAX) < 0 ? engineMax : API_VERSION_MAX;
  const isKnown = compare(chosen, API_VERSION_MIN) >= 0 && compare(chosen, engineMin) >= 0;
  return isKnown ? chosen : null;
}

function compare(a: string, b: string): number {
  const [aMajor = 0, aMinor = 0] = a.split(".").map(Number);
  const [bMajor = 0, bMinor = 0] = b.split(".").map(Number);
  return aMajor - bMajor || aMinor - bMinor;
}

/** Rejects when nothing came within the time: an engine that hangs must not hold up what waits for it. */
export async function bounded<T>(call: Promise<T>, timeoutMs = CALL_TIMEOUT_MS): Promise<T> {
  const abort = new AbortController();
  const late = wait(timeoutMs, undefined, { signal: abort.signal }).then(() => {
    throw new EngineAway(`the container engine did not answer within ${timeoutMs / 1000} s`);
  });
  try {
    return await Promise.race([call, late]);
  } finally {
    abort.abort();
    late.catch(() => {});
  }
}

class EngineAway extends Error {}

/** The HTTP status with which the engine refused; null when it was no answer. */
export function statusOf(error: unknown): number | null {
  const parsed = z.object({ statusCode: z.number() }).safeParse(error);
  return parsed.success ? parsed.data.statusCode : null;
}

/** Whether the engine is away, as against that it refused. */
export function isAway(error: unknown): boolean {
  return statusOf(error) === null;
}

/** What the engine said, in one line, without dockerode's preface. */
export function messageOf(error: unknown): string {
  const json = z.object({ json: z.object({ message: z.string() }) }).safeParse(error);
  const text = json.success ? json.data.json.message : error instanceof Error ? error.message : String(error);
  return text
    .replace(/^\(HTTP code \d+\) [^-]*- /, "")
    .replace(/\s+/g, " ")
    .trim();
}
