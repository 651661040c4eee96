/** Builds of pushed sources: Cogway's own addition to Replicate's API. They and their logs are for the model's people and the operator. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { BuildApi } from "../../durable-objects/build-contract.ts";
import { buildStub } from "../../durable-objects/stubs.ts";
import { BuildPageSchema, BuildParams, BuildSchema, CreateBuildSchema } from "../../schema/api/builds.ts";
import { bearer, CursorQuerySchema, OwnerNameParams, problemResponses, problems } from "../../schema/api/common.ts";
import { type BuildDocument, showBuild, showBuildSummary } from "../../schema/build-document.ts";
import { AppError } from "../../schema/problems.ts";
import { createBuild } from "../domain/create-build.ts";
import { decodeCursor, keysetPage, pageUrl } from "../domain/cursors.ts";
import { requireInsight, requireOwnModel } from "../domain/resolve-version.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { hasBuild, listBuilds } from "../storage/builds.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const builds = newRouter();
const tags = ["builds"];
const PAGE_ROWS = 100;
const BuildCursor = z.object({ side: z.enum(["after", "before"]), created_at: z.number().int(), id: z.string() });

builds.openapi(
  createRoute({
    method: "post",
    path: "/v1/models/{owner}/{name}/builds",
    tags,
    summary: "Build a pushed source into a version",
    description:
      "The manifest and its blobs must lie in the model's repository (`/v2/`), as `cogway push` puts them there. An origin builds them; the version becomes the latest, and its first prediction is made from the model's example. Two builds of one source give one version.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: OwnerNameParams, body: { required: true, content: json(CreateBuildSchema) } },
    responses: {
      201: {
        description: "The build, which waits for an origin",
        headers: { location: { description: "the build's URL", schema: { type: "string" } } },
        content: json(BuildSchema),
      },
      ...problems(429),
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const { manifest, force } = c.req.valid("json");
    const caller = callerOf(c);
    await requireOwnModel(edge, caller, owner, name, "push");
    const build = showBuild(
      await createBuild(edge, caller, { owner, name, manifest, is_forced: force }),
      edge.settings.publicUrl,
    );
    c.header("location", build.urls.get);
    return c.json(build, 201);
  },
);

builds.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/builds",
    tags,
    summary: "List a model's builds, newest first",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams, query: CursorQuerySchema },
    responses: { 200: { description: "A page of builds", content: json(BuildPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    await requireInsight(edge, callerOf(c), owner, name);
    const cursor = decodeCursor(c.req.valid("query").cursor, BuildCursor);
    const read = await listBuilds(c.env.DB, owner, name, PAGE_ROWS + 1, cursor);
    const page = keysetPage(read, PAGE_ROWS, cursor?.side, ({ created_at, id }) => ({ created_at, id }));
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, c.req.path, c.req.query(), position);
    const results = page.rows.map(showBuildSummary);
    return c.json({ previous: url(page.previous), next: url(page.next), results }, 200);
  },
);

builds.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/builds/{build_id}",
    tags,
    summary: "Get a build",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: BuildParams },
    responses: { 200: { description: "The build", content: json(BuildSchema) }, ...problemResponses },
  }),
  async (c) => {
    const params = c.req.valid("param");
    await requireInsight(edgeOf(c), callerOf(c), params.owner, params.name);
    return c.json(shown(c, await (await buildOf(c, params)).get()), 200);
  },
);

builds.openapi(
  createRoute({
    method: "post",
    path: "/v1/models/{owner}/{name}/builds/{build_id}/cancel",
    tags,
    summary: "Cancel a build",
    description: "One that has ended, or whose version is being made just now, stays as it is.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: BuildParams },
    responses: { 200: { description: "The build", content: json(BuildSchema) }, ...problemResponses },
  }),
  async (c) => {
    const params = c.req.valid("param");
    await requireOwnModel(edgeOf(c), callerOf(c), params.owner, params.name, "push");
    return c.json(shown(c, await (await buildOf(c, params)).cancel()), 200);
  },
);

builds.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/builds/{build_id}/logs",
    tags,
    summary: "Get a build's log, as far as it has come",
    description: "Of a long one the oldest lines go; the first line says so.",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: BuildParams },
    responses: {
      200: { description: "The log", content: { "text/plain": { schema: z.string() } } },
      ...problemResponses,
    },
  }),
  async (c) => {
    const params = c.req.valid("param");
    await requireInsight(edgeOf(c), callerOf(c), params.owner, params.name);
    const answer = await (await buildOf(c, params)).fetch(new Request("https://build/logs"));
    if (!answer.ok) throw unknownBuild();
    return verbatim(new Response(answer.body, { headers: { "content-type": "text/plain; charset=utf-8" } }));
  },
);

builds.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/builds/{build_id}/events",
    tags,
    summary: "Follow a build",
    description:
      "Server-sent events: `status` (JSON of `status`, `stage` and `waiting_for`) now and whenever it changes, `logs` (a piece of the log), and at the end `done` (JSON of the build). `Last-Event-ID` resumes after any of them, also after the end.",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: BuildParams, headers: z.object({ "last-event-id": z.string().optional() }) },
    responses: {
      200: {
        description: "Server-sent events",
        headers: {
          "x-accel-buffering": { description: "tells proxies to pass each on at once", schema: { type: "string" } },
        },
        content: { "text/event-stream": { schema: z.string() } },
      },
      ...problems(429),
    },
  }),
  async (c) => {
    const params = c.req.valid("param");
    await requireInsight(edgeOf(c), callerOf(c), params.owner, params.name);
    const lastEventId = c.req.header("last-event-id");
    const request = new Request("https://build/events", {
      headers: lastEventId === undefined ? {} : { "last-event-id": lastEventId },
      // Only so does the object learn that the reader has left.
      signal: c.req.raw.signal,
    });
    const answer = await (await buildOf(c, params)).fetch(request);
    if (answer.status === 404) throw unknownBuild();
    if (answer.status === 429) throw new AppError("reader.too_many", "This stream has all the readers it can have.");
    if (c.req.method === "HEAD") await answer.body?.cancel();
    const headers = {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      // Proxies that buffer would hold back lines.
      "x-accel-buffering": "no",
    };
    return verbatim(new Response(c.req.method === "HEAD" ? null : answer.body, { headers }));
  },
);

/** The build, which must be one of this model. */
async function buildOf(c: Context<AppEnv>, params: z.infer<typeof BuildParams>): Promise<BuildApi> {
  const { owner, name, build_id } = params;
  if (!(await hasBuild(c.env.DB, owner, name, build_id))) throw unknownBuild();
  return buildStub(c.env, build_id);
}

function shown(c: Context<AppEnv>, build: BuildDocument | null): z.infer<typeof BuildSchema> {
  if (build === null) throw unknownBuild();
  return showBuild(build, edgeOf(c).settings.publicUrl);
}

function unknownBuild(): AppError {
  return new AppError("build.not_found", "This model has no build of this id.");
}
