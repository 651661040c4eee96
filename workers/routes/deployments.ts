/** Named deployments of an account: Replicate's HTTP API, with the list of releases and a status beside it. */
import { createRoute, z } from "@hono/zod-openapi";
import { bearer, CursorQuerySchema, OwnerNameParams, problemResponses, problems } from "../../schema/api/common.ts";
import {
  CreateDeploymentSchema,
  DeploymentPageSchema,
  DeploymentSchema,
  ReleasePageSchema,
  ScalingSchema,
  UpdateDeploymentSchema,
} from "../../schema/api/deployments.ts";
import { CreateHeadersSchema, CreateModelPredictionSchema } from "../../schema/api/predictions.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import {
  createDeployment,
  describeDeployment,
  removeDeployment,
  requireDeployment,
  requireRelease,
  scalingOf,
  showDeployment,
  showRelease,
  updateDeployment,
} from "../domain/deployments.ts";
import { edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { CREATE_BODY_BYTES_MAX } from "../middleware/json-body.ts";
import { listDeployments, listReleases } from "../storage/deployments.ts";
import { create, created } from "./predictions.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const deployments = newRouter();
const tags = ["deployments"];
/** Objects per page, as Replicate has it. */
const PAGE_ROWS = 100;

const Side = z.enum(["before", "after"]);
const DeploymentCursor = z.object({
  side: Side,
  created_at: z.number().int(),
  owner: z.string(),
  name: z.string(),
});
const ReleaseCursor = z.object({ side: Side, number: z.number().int() });

/**
 * One page of rows, newest first, that were read with one more than fits: beyond the page's older end, or its newer end where `side` is `after`.
 * `at` names a row's position.
 */
function pageAround<Row, Position extends object>(
  rows: Row[],
  side: z.infer<typeof Side> | null,
  at: (row: Row) => Position,
): { rows: Row[]; next: unknown; previous: unknown } {
  const more = rows.length > PAGE_ROWS;
  const page = side === "after" ? rows.slice(-PAGE_ROWS) : rows.slice(0, PAGE_ROWS);
  const first = page[0];
  const last = page.at(-1);
  const hasOlder = side === "after" || more;
  const hasNewer = side === "after" ? more : side === "before";
  return {
    rows: page,
    next: hasOlder && last !== undefined ? { side: "before", ...at(last) } : null,
    previous: hasNewer && first !== undefined ? { side: "after", ...at(first) } : null,
  };
}

deployments.openapi(
  createRoute({
    method: "get",
    path: "/v1/deployments",
    tags,
    summary: "List deployments of your account and your organizations, newest first",
    security: bearer,
    middleware: allow("deployments:read"),
    request: { query: CursorQuerySchema },
    responses: {
      200: { description: "A page of deployments", content: json(DeploymentPageSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { publicUrl } = edgeOf(c).settings;
    const { username, organizations, allowed_models } = callerOf(c);
    const cursor = decodeCursor(c.req.valid("query").cursor, DeploymentCursor);
    const rows = await listDeployments(
      c.env.DB,
      { owners: [username, ...organizations.map((organization) => organization.username)], models: allowed_models },
      cursor === null ? {} : { [cursor.side]: cursor },
      PAGE_ROWS + 1,
    );
    const page = pageAround(rows, cursor?.side ?? null, ({ created_at, release: { owner, name } }) => ({
      created_at,
      owner,
      name,
    }));
    const url = (position: unknown) => pageUrl(publicUrl, c.req.path, c.req.query(), position);
    const results = page.rows.map((row) => showDeployment(row));
    return c.json({ previous: url(page.previous), next: url(page.next), results }, 200);
  },
);

deployments.openapi(
  createRoute({
    method: "post",
    path: "/v1/deployments",
    tags,
    summary: "Create a deployment",
    description: "Its `min_instances` start at once and stay. Give `owner/name` as name to make it an organization's.",
    security: bearer,
    middleware: allow("deployments:write"),
    request: { body: { required: true, content: json(CreateDeploymentSchema) } },
    responses: {
      200: { description: "The deployment with release 1", content: json(DeploymentSchema) },
      ...problems(409),
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const caller = callerOf(c);
    const { owner, name } = await createDeployment(edge, caller, c.req.valid("json"));
    return c.json(showDeployment(await requireDeployment(edge, caller, owner, name)), 200);
  },
);

deployments.openapi(
  createRoute({
    method: "get",
    path: "/v1/deployments/{owner}/{name}",
    tags,
    summary: "Get a deployment, with what runs for it",
    security: bearer,
    middleware: allow("deployments:read"),
    request: { params: OwnerNameParams },
    responses: { 200: { description: "The deployment", content: json(DeploymentSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const found = await requireDeployment(edge, callerOf(c), owner, name);
    return c.json(showDeployment(found, await describeDeployment(edge, owner, name)), 200);
  },
);

deployments.openapi(
  createRoute({
    method: "get",
    path: "/v1/deployments/{owner}/{name}/scaling",
    tags,
    summary: "See how a deployment scales: what it measures, its targets, and each change with its reason",
    security: bearer,
    middleware: allow("deployments:read"),
    request: { params: OwnerNameParams },
    responses: { 200: { description: "How it scales", content: json(ScalingSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const { release } = await requireDeployment(edge, callerOf(c), owner, name);
    return c.json(await scalingOf(edge, release), 200);
  },
);

deployments.openapi(
  createRoute({
    method: "get",
    path: "/v1/deployments/{owner}/{name}/releases",
    tags,
    summary: "List a deployment's releases, newest first",
    security: bearer,
    middleware: allow("deployments:read"),
    request: { params: OwnerNameParams, query: CursorQuerySchema },
    responses: { 200: { description: "A page of releases", content: json(ReleasePageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    await requireDeployment(edge, callerOf(c), owner, name);
    const cursor = decodeCursor(c.req.valid("query").cursor, ReleaseCursor);
    const range = cursor === null ? {} : { [cursor.side]: cursor.number };
    const rows = await listReleases(c.env.DB, owner, name, range, PAGE_ROWS + 1);
    const page = pageAround(rows, cursor?.side ?? null, ({ release: { number } }) => ({ number }));
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, c.req.path, c.req.query(), position);
    return c.json({ previous: url(page.previous), next: url(page.next), results: page.rows.map(showRelease) }, 200);
  },
);

deployments.openapi(
  createRoute({
    method: "patch",
    path: "/v1/deployments/{owner}/{name}",
    tags,
    summary: "Change a deployment: a new release, where anything changes",
    description:
      "What was created before runs on the version that it shows; its instances finish that and go. `min_instances` and `max_instances` of 0 disable the deployment: what runs or waits is canceled.",
    security: bearer,
    middleware: allow("deployments:write"),
    request: { params: OwnerNameParams, body: { required: true, content: json(UpdateDeploymentSchema) } },
    responses: {
      200: { description: "The deployment as it is now", content: json(DeploymentSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const caller = callerOf(c);
    const { owner, name } = c.req.valid("param");
    await requireDeployment(edge, caller, owner, name);
    await updateDeployment(edge, caller, owner, name, c.req.valid("json"));
    return c.json(showDeployment(await requireDeployment(edge, caller, owner, name)), 200);
  },
);

deployments.openapi(
  createRoute({
    method: "delete",
    path: "/v1/deployments/{owner}/{name}",
    tags,
    summary: "Delete a deployment that has no instances and was not used for 15 minutes",
    security: bearer,
    middleware: allow("deployments:write"),
    request: { params: OwnerNameParams },
    responses: { 204: { description: "It is gone" }, ...problems(409) },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    await removeDeployment(edgeOf(c), callerOf(c), owner, name);
    return c.body(null, 204);
  },
);

deployments.openapi(
  createRoute({
    method: "post",
    path: "/v1/deployments/{owner}/{name}/predictions",
    tags,
    summary: "Create a prediction on a deployment's current release",
    security: bearer,
    middleware: allow("predictions:write", CREATE_BODY_BYTES_MAX),
    request: {
      params: OwnerNameParams,
      headers: CreateHeadersSchema,
      body: { required: true, content: json(CreateModelPredictionSchema) },
    },
    responses: created,
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    const release = await requireRelease(edgeOf(c), callerOf(c), owner, name);
    const [modelOwner = "", modelName = ""] = release.model.split("/");
    const reference = { kind: "model_version", owner: modelOwner, name: modelName, version: release.version } as const;
    return verbatim(await create(c, reference, c.req.valid("json"), release));
  },
);
