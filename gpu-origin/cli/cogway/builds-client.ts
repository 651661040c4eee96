/** Builds of a model on the platform: begun, followed to their end, canceled. */
import type { z } from "zod";
import type { BuildSchema, BuildSummarySchema } from "../../../schema/api/builds.ts";
import { followEvents, type PredictionEvent } from "../../../schema/client/events.ts";
import type { Http } from "../../../schema/client/http.ts";
import type { Connection } from "./connection.ts";
import { type ModelName, modelPath } from "./context.ts";

export type Build = z.infer<typeof BuildSchema>;
export type BuildSummary = z.infer<typeof BuildSummarySchema>;

const ENDED = new Set<Build["status"]>(["succeeded", "failed", "canceled"]);

export function hasEnded({ status }: Pick<Build, "status">): boolean {
  return ENDED.has(status);
}

export class BuildsClient {
  readonly #http: Http;
  readonly #connection: Connection;
  readonly #path: string;

  constructor(http: Http, connection: Connection, model: ModelName) {
    this.#http = http;
    this.#connection = connection;
    this.#path = `${modelPath(model)}/builds`;
  }

  create(manifest: string, force: boolean): Promise<Build> {
    return this.#http.json("POST", this.#path, { body: { manifest, force } });
  }

  list(): AsyncGenerator<BuildSummary> {
    return this.#http.pages(this.#path);
  }

  get(id: string): Promise<Build> {
    return this.#http.json("GET", `${this.#path}/${encodeURIComponent(id)}`);
  }

  cancel(id: string): Promise<Build> {
    return this.#http.json("POST", `${this.#path}/${encodeURIComponent(id)}/cancel`);
  }

  /** What it wrote so far. */
  log(id: string): Promise<Response> {
    return this.#http.open(`${this.#path}/${encodeURIComponent(id)}/logs`);
  }

  /** Stages, log lines and the end, from the start, taken up again where a connection breaks. */
  events(id: string, signal: AbortSignal): AsyncGenerator<BuildStreamEvent> {
    const url = `${this.#connection.url}${this.#path}/${encodeURIComponent(id)}/events`;
    const headers = { accept: "text/event-stream", authorization: `Bearer ${this.#connection.token}` };
    return followEvents((more, own) => fetch(url, { headers: { ...headers, ...more }, signal: own ?? signal }), signal);
  }
}

/** `status` (the build as a document), `logs` (a text), `done`. */
type BuildStreamEvent = Omit<PredictionEvent, "event"> & { event: string };
