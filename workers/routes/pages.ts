/**
 * What people see: the web page (built into dist/web), the API's own documentation, and the pages that problems point to. Nothing is loaded from
 * another host. `docs-assets/` in dist/web holds swagger-ui-bundle.js, swagger-ui.css (of swagger-ui-dist), the guides of docs/ as HTML, and pages.json.
 */
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import { RESERVED_USERNAMES } from "../../schema/api/account.ts";
import { NAME_PATTERN } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { type AppEnv, settingsOf } from "../env.ts";
import { openapiDocument } from "../openapi-document.ts";

/** Names of built files hold a digest of their content. */
const ASSET_CACHE_CONTROL = "public, max-age=31536000, immutable";
const SWAGGER_INIT = `window.ui = SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger", deepLinking: true });`;

export function addDocs(app: OpenAPIHono<AppEnv>): void {
  let openapi: string | null = null;
  app.get("/openapi.json", (c) => {
    openapi ??= JSON.stringify(openapiDocument(app));
    return c.body(openapi, 200, { "content-type": "application/json" });
  });
  app.get("/docs", (c) =>
    page(
      c,
      "Cogway API",
      '<link rel="stylesheet" href="/docs-assets/swagger-ui.css">',
      '<div id="swagger"></div><script src="/docs-assets/swagger-ui-bundle.js"></script><script src="/docs/init.js"></script>',
    ),
  );
  app.get("/docs/init.js", (c) => c.body(SWAGGER_INIT, 200, { "content-type": "text/javascript; charset=utf-8" }));
  app.get("/docs/:guide{[a-z-]+}", async (c) => {
    const html = await asset(c, `/docs-assets/${c.req.param("guide")}.html`);
    if (!html.ok)
      throw new AppError(
        "route.not_found",
        "There is no such guide. /docs lists the API, docs/ of the sources the guides.",
      );
    return page(c, "Cogway docs", GUIDE_STYLE, GUIDE_HEAD + (await html.text()));
  });
}

const GUIDE_HEAD =
  '<nav><a href="/">Cogway</a> <a href="/docs">API</a> <a href="/docs/from-replicate">From Replicate</a></nav>';
const GUIDE_STYLE = `<style>
:root{color-scheme:light dark}
body{font:16px/1.6 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
nav a{margin-right:1rem}
code,pre{font:14px/1.5 ui-monospace,monospace}
pre{overflow-x:auto;padding:.75rem;border:1px solid color-mix(in srgb,currentColor 20%,transparent);border-radius:6px}
table{border-collapse:collapse;display:block;overflow-x:auto}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent)}
:target{background:color-mix(in srgb,gold 40%,transparent)}
</style>`;

function page(c: Context<AppEnv>, title: string, head: string, body: string): Response {
  const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title}</title><link rel="icon" href="/favicon.svg">${head}</head><body>${body}</body></html>`;
  const response = new Response(html, { headers: { "content-type": "text/html; charset=utf-8" } });
  return secured(c, response, "'self' 'unsafe-inline'");
}

/** First parts of the page's addresses, with one more part behind them at most. */
const PAGES = new Set(["p", "billing", "status"]);

/** The web page or one of its files; null where there is none and the address is the API's. */
export async function readPage(c: Context<AppEnv>): Promise<Response | null> {
  if (c.req.method !== "GET" && c.req.method !== "HEAD") return null;
  const segments = c.req.path.split("/").slice(1);
  const first = segments[0] ?? "";
  const isPage = first === "" || (PAGES.has(first) ? segments.length <= 2 : isModelPath(segments));
  if (isPage) {
    const index = await asset(c, "/");
    return isFound(index) ? secured(c, index) : null;
  }
  const file = await asset(c, c.req.path);
  if (!isFound(file)) return null;
  const response = secured(c, file);
  if (first === "assets") response.headers.set("cache-control", ASSET_CACHE_CONTROL);
  return response;
}

/** There, whole or unchanged since the browser asked last. */
const isFound = (response: Response) => response.ok || response.status === 304;

function isModelPath(segments: string[]): boolean {
  const [owner = "", name = ""] = segments;
  const isNamed = segments.length === 2 && NAME_PATTERN.test(owner) && NAME_PATTERN.test(name);
  return isNamed && !RESERVED_USERNAMES.has(owner);
}

async function asset(c: Context<AppEnv>, path: string): Promise<Response> {
  const headers = new Headers();
  for (const name of ["if-none-match", "accept-encoding"]) {
    const value = c.req.header(name);
    if (value !== undefined) headers.set(name, value);
  }
  return c.env.ASSETS.fetch(new Request(new URL(path, "https://assets"), { headers }));
}

/** Scripts come from us alone. Pictures and sounds come from anywhere: a model's input may be any address. */
function secured(c: Context<AppEnv>, response: Response, styles = "'self'"): Response {
  const own = `'self' ${new URL(settingsOf(c.env).publicUrl).origin}`;
  const secure = new Response(response.body, response);
  const policy = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": styles,
    "img-src": "'self' data: blob: http: https:",
    "media-src": "'self' data: blob: http: https:",
    "font-src": "'self' data:",
    "connect-src": own,
    "manifest-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
  };
  const directives = Object.entries(policy).map(([name, value]) => `${name} ${value}`);
  secure.headers.set("content-security-policy", directives.join("; "));
  secure.headers.set("x-frame-options", "DENY");
  return secure;
}
