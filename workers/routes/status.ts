/** How the models that a caller may see are doing right now: queues, instances, what failed last. Beyond Replicate's HTTP API. */
import { createRoute, type z } from "@hono/zod-openapi";
import { z as zod } from "zod";
import { bearer, problemResponses } from "../../schema/api/common.ts";
import { StatusPageSchema, StatusQuery } from "../../schema/api/status.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { modelStatus } from "../domain/model-status.ts";
import { edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { listByName } from "../storage/models.ts";
import { allow, json, newRouter } from "./router.ts";

export const status = newRouter();
/** Each model is asked of its own object. */
const PAGE_ROWS = 20;
const StatusCursor = zod.object({ owner: zod.string(), name: zod.string() });

status.openapi(
  createRoute({
    method: "get",
    path: "/v1/status",
    tags: ["operating"],
    summary: "Tell how models are doing: their queues, instances and last errors",
    description:
      "Of the models that you may see, by name; the operator sees all. What a model's setup said goes to its people and the operator, others get the class of the error.",
    security: bearer,
    middleware: allow("models:read"),
    request: { query: StatusQuery },
    responses: { 200: { description: "A page of models", content: json(StatusPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const caller = callerOf(c);
    const after = decodeCursor(c.req.valid("query").cursor, StatusCursor);
    const read = await listByName(
      c.env.DB,
      caller.scopes.includes("admin") ? "operator" : caller,
      after,
      PAGE_ROWS + 1,
    );
    const rows = read.slice(0, PAGE_ROWS);
    const last = rows.at(-1)?.model;
    const next = read.length > PAGE_ROWS && last !== undefined ? { owner: last.owner, name: last.name } : null;
    const page: z.infer<typeof StatusPageSchema> = {
      previous: null,
      next: pageUrl(edge.settings.publicUrl, "/v1/status", c.req.query(), next),
      results: await Promise.all(rows.map((row) => modelStatus(edge, caller, row))),
    };
    return c.json(page, 200);
  },
);
