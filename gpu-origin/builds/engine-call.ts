/**
 * Calls of the engine's API that dockerode has no method for, or whose answer it would gather whole: builds and their sessions. Its connection settings and
 * its API version are used.
 */
import type { Duplex } from "node:stream";
import type Docker from "dockerode";

export interface EngineCall {
  method: "POST";
  path: string;
  /** members of the query; the path then ends with `?` */
  options?: Record<string, string>;
  headers?: Record<string, string | string[]>;
  /** the body */
  file?: NodeJS.ReadableStream;
  hijack?: boolean;
  isStream?: boolean;
  statusCodes: Record<number, true | string>;
  abortSignal?: AbortSignal;
}

/** Answers the stream of the answer, or of the hijacked connection. */
export function dial(docker: Docker, call: EngineCall): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const modem: { dial(call: EngineCall, callback: (error: Error | null, stream: Duplex) => void): void } =
      docker.modem;
    modem.dial(call, (error, stream) => (error === null ? resolve(stream) : reject(error)));
  });
}
