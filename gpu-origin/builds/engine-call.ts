/**
 * Calls of the engine's API that dockerode has no method for, or whose answer it would gather whole: builds and their sessions. Its connection settings and
 * its API version are used.
 */
import type { OutgoingHttpHeaders } from "node:http";
import { Readable } from "node:stream";
import type Docker from "dockerode";

export interface EngineCall {
  method: "POST";
  path: string;
  /** members of the query; the path then ends with `?` */
  options?: Record<string, string>;
  headers?: OutgoingHttpHeaders;
  /** the body */
  file?: NodeJS.ReadableStream;
  hijack?: boolean;
  isStream?: boolean;
  statusCodes: Record<number, boolean | string>;
  abortSignal?: AbortSignal;
}

/** Answers the body as a stream, or the hijacked connection, which is a Duplex. */
export function dial(docker: Docker, call: EngineCall): Promise<Readable> {
  return new Promise((resolve, reject) => {
    docker.modem.dial(call, (error, stream) => {
      if (error !== null) reject(error);
      else if (stream instanceof Readable) resolve(stream);
      else reject(new Error("the engine's answer is no stream"));
    });
  });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
