/** Builds of sources that lie in the registry, where `cogway push` puts them: begun, followed and waited for. */
import type { z } from "zod";
import type { BuildSchema, BuildSummarySchema, CreateBuildSchema } from "../api/builds.ts";
import { followEvents, type StreamEvent } from "./events.ts";
import type { CallOptions, Http } from "./http.ts";
import { named } from "./runs.ts";
import { type WaitOptions, waitForEnd } from "./wait.ts";

export type Build = z.infer<typeof BuildSchema>;
export type BuildSummary = z.infer<typeof BuildSummarySchema>;
/** Text of `logs`; JSON of `status` (state, stage and what it waits for) and of `done` (the build). */
export type BuildEvent = StreamEvent<"status" | "logs" | "done">;

export function builds(http: Http) {
  const path = (model: string, id?: string) =>
    `/v1/models/${named(model)}/builds${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;
  const get = (model: string, id: string, options?: CallOptions) => http.json<Build>("GET", path(model, id), options);
  const events = (model: string, id: string, options: CallOptions = {}): AsyncGenerator<BuildEvent> =>
    followEvents<BuildEvent>(
      (headers, signal) =>
        http.open(`${path(model, id)}/events`, { headers, ...(signal === undefined ? {} : { signal }) }),
      options.signal,
    );
  return {
    /** `model` is owner/name. Not repeated when the connection breaks; building a source twice gives the same version. */
    create: (model: string, request: z.input<typeof CreateBuildSchema>, options: CallOptions = {}) =>
      http.json<Build>("POST", path(model), { ...options, body: request }),
    list: (model: string, options?: CallOptions) => http.pages<BuildSummary>(path(model), options),
    get,
    cancel: (model: string, id: string, options?: CallOptions) =>
      http.json<Build>("POST", `${path(model, id)}/cancel`, options),
    /** Its stages and its log as they come, from the start, resumed where a connection breaks. */
    events,
    /** Its end, or `client.timeout`. */
    wait: (model: string, id: string, options: WaitOptions = {}) =>
      waitForEnd(
        (call) => get(model, id, call),
        ({ completed_at }) => completed_at !== null,
        options,
        async (_build, call) => {
          for await (const { event } of events(model, id, call)) if (event === "done") return;
        },
      ),
  };
}
