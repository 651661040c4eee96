/** What origins fetch to make a version start, and what they report of builds. */
import { createRoute, z } from "@hono/zod-openapi";
import { buildStub } from "../../durable-objects/stubs.ts";
import { problemResponses } from "../../schema/api/common.ts";
import { BuildAckSchema, BuildEventsSchema } from "../../schema/origin-protocol.ts";
import { PackageSchema } from "../../schema/packages.ts";
import { AppError } from "../../schema/problems.ts";
import { publishBuilt } from "../domain/publish-built.ts";
import { packageKey } from "../domain/publish-version.ts";
import { edgeOf } from "../env.ts";
import { jsonBody } from "../middleware/json-body.ts";
import { originOf, verifyOrigin } from "../middleware/verify-origin.ts";
import { json, newRouter } from "./router.ts";

export const originPackages = newRouter();
const tags = ["origins"];
const security = [{ originSignature: [] as string[] }];

/** A batch of events, or the end of a build with its schema and README. */
const EVENTS_BODY_BYTES_MAX = 16_777_216;

originPackages.openapi(
  createRoute({
    method: "post",
    path: "/origin/v1/builds/{build_id}/events",
    tags,
    summary: "Deliver events of a build",
    security,
    middleware: [jsonBody(EVENTS_BODY_BYTES_MAX), verifyOrigin],
    request: {
      params: z.object({ build_id: z.string().regex(/^[a-z2-7]{26}$/) }),
      body: { required: true, content: json(BuildEventsSchema) },
    },
    responses: {
      200: {
        description: "What was stored; the version of a good end was made before",
        content: json(BuildAckSchema),
      },
      ...problemResponses,
    },
  }),
  async (c) => {
    const build = buildStub(c.env, c.req.valid("param").build_id);
    const { events } = c.req.valid("json");
    const publication = await publishBuilt(edgeOf(c), build, events, originOf(c));
    return c.json(await build.applyEvents(events, originOf(c), publication), 200);
  },
);

originPackages.openapi(
  createRoute({
    method: "get",
    path: "/origin/v1/packages/{owner}/{name}/{version_id}",
    tags,
    summary: "Fetch what makes a version start",
    security,
    middleware: [verifyOrigin],
    request: {
      params: z.object({ owner: z.string(), name: z.string(), version_id: z.string().regex(/^[0-9a-f]{64}$/) }),
    },
    responses: { 200: { description: "The package", content: json(PackageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { owner, name, version_id } = c.req.valid("param");
    const stored = await c.env.FILES.get(packageKey(owner, name, version_id));
    if (stored === null) throw new AppError("package.not_found", "This version has no package (any more).");
    return c.json(PackageSchema.parse(await stored.json()), 200);
  },
);
