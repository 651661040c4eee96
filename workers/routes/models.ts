/** Models and hardware: Replicate's HTTP API. Their versions, examples and shares are in files of their own. */
import { createRoute, z } from "@hono/zod-openapi";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import { bearer, OwnerNameParams, problemResponses, problems } from "../../schema/api/common.ts";
import {
  CreateModelSchema,
  HardwareListSchema,
  ListModelsQuery,
  ModelPageSchema,
  ModelSchema,
  UpdateModelSchema,
} from "../../schema/api/models.ts";
import { AppError } from "../../schema/problems.ts";
import { keepWarm } from "../domain/announce-model.ts";
import { catalogChanged } from "../domain/catalog-changed.ts";
import { decodeCursor, keysetPage, pageUrl } from "../domain/cursors.ts";
import { isAllowed, mayManage, mayPush } from "../domain/model-access.ts";
import { requireModel, requireOwnModel } from "../domain/resolve-version.ts";
import { showModel } from "../domain/show-model.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { showVersionWhole } from "../domain/version-history.ts";
import { type Caller, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { deleteModel, insertModel, MODELS_PER_OWNER_MAX, saveLatest, updateModel } from "../storage/catalog-writes.ts";
import { hasHardware, listHardware, listModels, modelPosition, readModel, readReadme } from "../storage/models.ts";
import { allow, json, newRouter } from "./router.ts";

export const models = newRouter();
const tags = ["models"];
/** Objects per page, as Replicate has it. */
const PAGE_ROWS = 100;
const ModelCursor = z.object({
  side: z.enum(["after", "before"]),
  at: z.number().int().nullable(),
  owner: z.string(),
  name: z.string(),
});

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/models",
    tags,
    summary: "List public models",
    description: "With `owner`, the models of one account, private ones that you may see among them.",
    security: bearer,
    middleware: allow("models:read"),
    request: { query: ListModelsQuery },
    responses: { 200: { description: "A page of models", content: json(ModelPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { cursor: encoded, owner = null, ...sorting } = c.req.valid("query");
    const cursor = decodeCursor(encoded, ModelCursor);
    const read = await listModels(c.env.DB, callerOf(c), { ...sorting, owner, cursor, limit: PAGE_ROWS + 1 });
    const page = keysetPage(read, PAGE_ROWS, cursor?.side, (row) => modelPosition(row, sorting.sort_by));
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, "/v1/models", c.req.query(), position);
    const results = await Promise.all(page.rows.map((row) => showModel(edge, row, c.req.header("user-agent"))));
    return c.json({ previous: url(page.previous), next: url(page.next), results }, 200);
  },
);

models.openapi(
  createRoute({
    method: "post",
    path: "/v1/models",
    tags,
    summary: "Create a model",
    description:
      "For your account, or an organization that you are in. It has no version and cannot run before a training makes one.",
    security: bearer,
    middleware: allow("models:write"),
    request: { body: { required: true, content: json(CreateModelSchema) } },
    responses: { 201: { description: "The model", content: json(ModelSchema) }, ...problems(409) },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const wanted = c.req.valid("json");
    const { owner, name, hardware } = wanted;
    requireRoomFor(callerOf(c), owner, name);
    if (!(await hasHardware(c.env.DB, hardware))) {
      const skus = (await listHardware(c.env.DB)).map(({ sku }) => sku).join(", ");
      throw invalidInput([{ type: "enum", field: "hardware", description: `must be one of the SKUs ${skus}` }]);
    }
    switch (await insertModel(c.env.DB, wanted, Date.now())) {
      case "taken":
        throw new AppError("model.name_taken", `${owner}/${name} exists already. Choose another name.`);
      case "too_many":
        throw new AppError(
          "account.limit_reached",
          `${owner} has ${MODELS_PER_OWNER_MAX} models, which is the limit. Delete one that is not needed.`,
        );
      case "made":
        catalogChanged(edge, [`${owner}/${name}`]);
        return c.json(await showModel(edge, await requireOwnModel(edge, callerOf(c), owner, name, "push")), 201);
    }
  },
);

function requireRoomFor(caller: Caller, owner: string, name: string): void {
  if (!mayPush(caller, owner)) {
    const own = [caller.username, ...caller.organizations.map(({ username }) => username)].join(", ");
    throw new AppError("auth.forbidden", `You cannot make models for ${owner}. You can for: ${own}.`);
  }
  if (!isAllowed(caller, owner, name)) {
    throw new AppError("auth.forbidden", `This token is bound to other models than ${owner}/${name}.`);
  }
}

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}",
    tags,
    summary: "Get a model",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams },
    responses: { 200: { description: "The model", content: json(ModelSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const found = await requireModel(edge, callerOf(c), owner, name);
    const [model, latest_version] = await Promise.all([
      showModel(edge, found, c.req.header("user-agent")),
      found.latest === null ? null : showVersionWhole(edge, found.latest),
    ]);
    return c.json({ ...model, latest_version }, 200);
  },
);

models.openapi(
  createRoute({
    method: "patch",
    path: "/v1/models/{owner}/{name}",
    tags,
    summary: "Update a model",
    description:
      "`latest_version` rolls back or forward: it is what runs where no version is named; deployments keep theirs. Everybody in an organization may update its models; `visibility` is for its owners and admins. A model that becomes private is gone for all others but those it is shared with.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: OwnerNameParams, body: { required: true, content: json(UpdateModelSchema) } },
    responses: { 200: { description: "The whole model", content: json(ModelSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const change = c.req.valid("json");
    const found = await requireOwnModel(edge, callerOf(c), owner, name, "push");
    if (change.visibility !== undefined && change.visibility !== found.model.visibility) {
      if (!mayManage(callerOf(c), owner)) {
        throw new AppError(
          "auth.forbidden",
          `Only owners and admins of ${owner} may change who sees ${owner}/${name}.`,
        );
      }
    }
    const { latest_version, stable, ...columns } = change;
    if (latest_version !== undefined && !(await saveLatest(c.env.DB, { owner, name, id: latest_version }))) {
      const description = "must be the id of a version of this model";
      throw invalidInput([{ type: "enum", field: "latest_version", description }]);
    }
    await updateModel(
      c.env.DB,
      owner,
      name,
      { ...columns, ...(stable === undefined ? {} : { is_stable: stable }) },
      Date.now(),
    );
    catalogChanged(edge, [`${owner}/${name}`]);
    const updated = await readModel(c.env.DB, owner, name);
    if (latest_version !== undefined && updated?.model.is_official === true) {
      edge.later(keepWarm(edge, found, updated));
    }
    return c.json(await showModel(edge, updated ?? found, c.req.header("user-agent")), 200);
  },
);

models.openapi(
  createRoute({
    method: "delete",
    path: "/v1/models/{owner}/{name}",
    tags,
    summary: "Delete a private model without versions",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: OwnerNameParams },
    responses: { 204: { description: "Deleted" }, ...problems(409) },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const { model } = await requireOwnModel(edge, callerOf(c), owner, name, "manage");
    if (model.visibility === "public") {
      throw new AppError(
        "model.not_empty",
        `${owner}/${name} is public. Make it private first (PATCH visibility), then delete its versions and the model.`,
      );
    }
    if (!(await deleteModel(c.env.DB, owner, name))) {
      throw new AppError("model.not_empty", `${owner}/${name} has versions. Delete each of them first.`);
    }
    await repositoryStub(c.env, `${owner}/${name}`).empty();
    catalogChanged(edge, [`${owner}/${name}`]);
    return c.body(null, 204);
  },
);

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/readme",
    tags,
    summary: "Get a model's README",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams },
    responses: {
      200: { description: "Markdown", content: { "text/plain": { schema: z.string() } } },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    await requireModel(edgeOf(c), callerOf(c), owner, name);
    const readme = await readReadme(c.env.DB, owner, name);
    if (readme === null) throw new AppError("model.not_found", `The model ${owner}/${name} has no README.`);
    return c.text(readme, 200);
  },
);

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/hardware",
    tags,
    summary: "List hardware",
    security: bearer,
    middleware: allow("models:read"),
    responses: { 200: { description: "All of it; no pages", content: json(HardwareListSchema) }, ...problemResponses },
  }),
  async (c) => c.json(await listHardware(c.env.DB), 200),
);
