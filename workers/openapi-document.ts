/** The API's OpenAPI document, made from the routes themselves. schema/openapi.json is its committed copy; a test holds them equal. */
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { AppEnv } from "./env.ts";

export function openapiDocument(app: OpenAPIHono<AppEnv>): ReturnType<typeof app.getOpenAPI31Document> {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Cogway",
      version: "1.0.0",
      description: "Runs Cog models behind Replicate's HTTP API.",
      license: { name: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
  });
  const schemes = {
    bearerAuth: { type: "http", scheme: "bearer", description: "An API token. The scheme `Token` works too." },
    originSignature: {
      type: "apiKey",
      in: "header",
      name: "cogway-signature",
      description: "HMAC-SHA256 under an origin's key, with the other cogway-* headers",
    },
  } as const;
  return { ...document, components: { ...document.components, securitySchemes: schemes } };
}
