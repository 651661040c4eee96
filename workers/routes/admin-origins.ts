/** The operator's routes to origins: add one, look at them, empty and remove one. */
import { createRoute, z } from "@hono/zod-openapi";
import type { OriginListing } from "../../durable-objects/fleet-contract.ts";
import { forgetOrigins } from "../../durable-objects/origin-directory.ts";
import { fleetStub } from "../../durable-objects/stubs.ts";
import {
  InvitedOriginSchema,
  OriginPageSchema,
  OriginParams,
  OriginSchema,
  OriginsQuery,
} from "../../schema/api/admin.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import { AppError } from "../../schema/problems.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { edgeOf } from "../env.ts";
import { allow, json, newRouter } from "./router.ts";

export const adminOrigins = newRouter();
const tags = ["operating"];
const PAGE_ROWS = 100;
const OriginsCursor = z.object({ after: z.string().max(64) });

adminOrigins.openapi(
  createRoute({
    method: "get",
    path: "/admin/v1/origins",
    tags,
    summary: "List the origins: what they have, what they run, how they are",
    security: bearer,
    middleware: allow("admin"),
    request: { query: OriginsQuery },
    responses: { 200: { description: "A page of them", content: json(OriginPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { after } = decodeCursor(c.req.valid("query").cursor, OriginsCursor) ?? { after: null };
    const read = await fleetStub(c.env).listOrigins(after, PAGE_ROWS + 1);
    const rows = read.slice(0, PAGE_ROWS);
    const position = read.length > PAGE_ROWS ? { after: rows.at(-1)?.origin_id } : null;
    const next = pageUrl(edgeOf(c).settings.publicUrl, "/admin/v1/origins", {}, position);
    return c.json({ previous: null, next, results: rows.map(show) }, 200);
  },
);

adminOrigins.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/origins",
    tags,
    summary: "Make a join token for one more origin",
    description: "Start gpu-origin on the new host with it (COGWAY_JOIN_TOKEN). It works once, for one host.",
    security: bearer,
    middleware: allow("admin"),
    responses: { 201: { description: "The token", content: json(InvitedOriginSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { join_token, expires_at } = await fleetStub(c.env).inviteOrigin();
    return c.json({ join_token, expires_at: new Date(expires_at).toISOString() }, 201);
  },
);

for (const [action, on, summary] of [
  ["drain", true, "Let an origin finish what it runs, and send nothing new there"],
  ["undrain", false, "Let an origin take new work again"],
] as const) {
  adminOrigins.openapi(
    createRoute({
      method: "post",
      path: `/admin/v1/origins/{origin_id}/${action}`,
      tags,
      summary,
      description: "Kept over restarts of either side. Repeating it changes nothing.",
      security: bearer,
      middleware: allow("admin"),
      request: { params: OriginParams },
      responses: { 200: { description: "How it is now", content: json(OriginSchema) }, ...problems(404) },
    }),
    async (c) => {
      const { origin_id } = c.req.valid("param");
      const origin = await fleetStub(c.env).drainOrigin(origin_id, on);
      if (origin === null) throw unknownOrigin(origin_id);
      return c.json(show(origin), 200);
    },
  );
}

adminOrigins.openapi(
  createRoute({
    method: "delete",
    path: "/admin/v1/origins/{origin_id}",
    tags,
    summary: "Remove an origin and revoke its keys",
    description: "Drain it first: one that is alive and runs something stays. A lost one goes at once.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: OriginParams },
    responses: { 204: { description: "It is gone" }, ...problems(404, 409) },
  }),
  async (c) => {
    const { origin_id } = c.req.valid("param");
    const result = await fleetStub(c.env).removeOrigin(origin_id);
    if (result === "unknown") throw unknownOrigin(origin_id);
    if (result === "in_use") {
      throw new AppError(
        "origin.in_use",
        "It is alive and runs instances. Drain it, and remove it once its state is drained.",
      );
    }
    forgetOrigins();
    return c.body(null, 204);
  },
);

function show(listing: OriginListing): z.infer<typeof OriginSchema> {
  const { origin_id, url, region, driver, state, hardware, capacity, instances } = listing;
  return {
    id: origin_id,
    url,
    region,
    driver,
    state,
    hardware: hardware.map(({ sku, name, gpus }) => ({ sku, name, gpus })),
    capacity: { instances: capacity.instances, memory_bytes: capacity.memory_bytes },
    instances: instances.length,
  };
}

function unknownOrigin(id: string): AppError {
  return new AppError("origin.not_found", `There is no origin ${id.slice(0, 64)}.`);
}
