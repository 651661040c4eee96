/** Why a command ends without success: one message that says what to do, and the exit code. */
import { CogwayError } from "../../../schema/client/error.ts";
import { PackFault } from "../../packaging/pack.ts";

/** Ended by Ctrl-C, in the shell's way. */
export const INTERRUPTED_EXIT = 130;
const FAULT_EXIT = 1;

export class CliFault extends Error {
  readonly exitCode: number;

  constructor(message: string, options: { exitCode?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.exitCode = options.exitCode ?? FAULT_EXIT;
  }
}

/** What a person is told of any error. `url`: the platform that the command spoke to, where it did. */
export function faultOf(error: unknown, url: string | null): CliFault {
  if (error instanceof CliFault) return error;
  if (error instanceof CogwayError) return new CliFault(apiMessage(error, url), { cause: error });
  if (error instanceof PackFault) return new CliFault(error.message, { cause: error });
  if (error instanceof Error && "code" in error && typeof error.code === "string" && "path" in error) {
    return new CliFault(`${error.message}. Look at ${String(error.path)}.`, { cause: error });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new CliFault(`This is a fault of cogway: ${message} (COGWAY_DEBUG=1 shows where).`, { cause: error });
}

function apiMessage(error: CogwayError, url: string | null): string {
  const place = url ?? "the platform";
  if (error.code === "client.unreachable") {
    return `${place} cannot be reached. Start it (npm start), or name another with COGWAY_URL or cogway login.`;
  }
  if (error.code === "client.timeout") return `${place} did not answer in time: ${error.detail} Try again.`;
  if (error.status === 401) return `${place} refuses the token. Log in again (cogway login), or set COGWAY_TOKEN.`;
  const fields = error.invalid_fields.filter(({ description }) => !error.detail.includes(description));
  const faults = fields.map(({ field, description }) => `\n  ${field} ${description}`).join("");
  const wait = error.retry_after === null ? "" : ` Try again in ${error.retry_after} s.`;
  return `${error.detail}${faults}${wait}`;
}
