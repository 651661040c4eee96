/** Live output as server-sent events. The address itself grants access: a token that is sent along is ignored, and never looked up. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { predictionStub } from "../../durable-objects/stubs.ts";
import { problemResponses } from "../../schema/api/common.ts";
import { readStreamToken } from "../../schema/capabilities.ts";
import { AppError } from "../../schema/problems.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { newRouter, verbatim } from "./router.ts";

export const streams = newRouter();

// Clients take the data of an `output` event for a file only where the address begins with /v1/files/.
for (const [path, what] of [
  ["/v1/streams/{token}", "text"],
  ["/v1/files/streams/{token}", "output files"],
] as const) {
  streams.openapi(
    createRoute({
      method: "get",
      path,
      tags: ["predictions"],
      summary: `Stream a prediction's ${what}`,
      description:
        "Events `output`, `logs`, `error` and `done`, each with an id. `Last-Event-ID` resumes after any of them, also after the end.",
      security: [],
      request: {
        params: z.object({ token: z.string() }),
        headers: z.object({ "last-event-id": z.string().optional() }),
      },
      responses: {
        200: {
          description: "Server-sent events",
          headers: {
            "x-accel-buffering": { description: "tells proxies to pass each on at once", schema: { type: "string" } },
          },
          content: { "text/event-stream": { schema: z.string() } },
        },
        ...problemResponses,
      },
    }),
    async (c) => verbatim(await readStream(c, c.req.valid("param").token)),
  );
}

async function readStream(c: Context<AppEnv>, token: string): Promise<Response> {
  const id = readStreamToken(edgeOf(c).settings.signingSecret, token);
  if (id === null) throw new AppError("stream.not_found", "This stream does not exist.");
  const lastEventId = c.req.header("last-event-id");
  const answer = await predictionStub(c.env, id).fetch(
    new Request(`https://prediction/stream/${id}`, {
      headers: lastEventId === undefined ? {} : { "last-event-id": lastEventId },
      // Only so does the object learn that the reader has left.
      signal: c.req.raw.signal,
    }),
  );
  if (answer.status === 404) throw new AppError("stream.not_found", "This stream does not exist.");
  if (answer.status === 410) throw new AppError("stream.expired", "The prediction's data was removed.");
  if (answer.status === 429) throw new AppError("reader.too_many", "This stream has all the readers it can have.");
  if (c.req.method === "HEAD") await answer.body?.cancel();
  return new Response(c.req.method === "HEAD" ? null : answer.body, {
    status: answer.status,
    headers: {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      // Proxies that buffer would hold back tokens.
      "x-accel-buffering": "no",
    },
  });
}
