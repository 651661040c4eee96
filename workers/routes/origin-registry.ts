/** What origins read of the registry: sources to build and weights, and tokens for engines that pull images by themselves. */
import { createRoute, z } from "@hono/zod-openapi";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import { problemResponses, problems } from "../../schema/api/common.ts";
import { AppError } from "../../schema/problems.ts";
import { answerBlob, answerManifest } from "../domain/registry-content.ts";
import { isDigest } from "../domain/registry-names.ts";
import { signRegistryToken } from "../domain/registry-token.ts";
import { edgeOf } from "../env.ts";
import { jsonBody } from "../middleware/json-body.ts";
import { originOf, verifyOrigin } from "../middleware/verify-origin.ts";
import { json, newRouter, verbatim } from "./router.ts";

export const originRegistry = newRouter();
const tags = ["origins"];
const security = [{ originSignature: [] as string[] }];
/** None of these has a body. */
const BODY_BYTES_MAX = 1_024;
const signed = [jsonBody(BODY_BYTES_MAX), verifyOrigin];

const BASE = "/origin/v1/repositories/{owner}/{name}";
const RepositoryParams = z.object({ owner: z.string(), name: z.string() });
const DigestParams = RepositoryParams.extend({ digest: z.string().refine(isDigest, "is no digest") });
const binary = { "*/*": { schema: { type: "string", format: "binary" } } } as const;
const manifest = { "*/*": { schema: { description: "As it was pushed" } } } as const;
const headers = { "docker-content-digest": { description: "the digest", schema: { type: "string" } } } as const;

originRegistry.openapi(
  createRoute({
    method: "get",
    path: `${BASE}/manifests/{digest}`,
    tags,
    summary: "Fetch a manifest",
    security,
    middleware: signed,
    request: { params: DigestParams },
    responses: {
      200: { description: "Its bytes, with its media type", headers, content: manifest },
      206: { description: "The asked range of them", headers },
      304: { description: "They have not changed" },
      ...problems(416),
    },
  }),
  async (c) => {
    const { owner, name, digest } = c.req.valid("param");
    const repository = repositoryStub(c.env, `${owner}/${name}`);
    const answer = await answerManifest(c.env.FILES, c.req.raw, repository, digest);
    if (answer === null) throw new AppError("package.not_found", "The repository has no such manifest.");
    return verbatim(answer);
  },
);

originRegistry.openapi(
  createRoute({
    method: "get",
    path: `${BASE}/blobs/{digest}`,
    tags,
    summary: "Fetch a blob",
    security,
    middleware: signed,
    request: { params: DigestParams },
    responses: {
      200: { description: "Its bytes", headers, content: binary },
      206: { description: "The asked range of them", headers },
      304: { description: "They have not changed" },
      ...problems(416),
    },
  }),
  async (c) => {
    const { owner, name, digest } = c.req.valid("param");
    const answer = await answerBlob(c.env.FILES, c.req.raw, repositoryStub(c.env, `${owner}/${name}`), digest);
    if (answer === null) throw new AppError("package.not_found", "The repository does not have the blob.");
    return verbatim(answer);
  },
);

originRegistry.openapi(
  createRoute({
    method: "post",
    path: `${BASE}/token`,
    tags,
    summary: "Get a token for an engine that pulls an image from the registry",
    security,
    middleware: signed,
    request: { params: RepositoryParams },
    responses: {
      200: {
        description: "A token for `/v2/` that pulls from this repository alone",
        content: json(z.object({ token: z.string(), expires_in: z.number().int() })),
      },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    const { token, expires_in } = await signRegistryToken(
      edgeOf(c).settings,
      { kind: "origin", origin_id: originOf(c) },
      [{ type: "repository", name: `${owner}/${name}`, actions: ["pull"] }],
    );
    return c.json({ token, expires_in }, 200);
  },
);
