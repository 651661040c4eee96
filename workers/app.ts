/**
 * The edge's HTTP: what happens to every request, in order, and which file answers it.
 * Frame (loop turn, id, headers, one line of log) -> CORS -> per route: token, scope, bounded body, validation -> one use case.
 */
import type { Context } from "hono";
import { cors } from "hono/cors";
import type { AppEnv } from "./env.ts";
import { audit } from "./middleware/audit.ts";
import { problemResponse, renderError } from "./middleware/problems.ts";
import { requestFrame } from "./middleware/request-frame.ts";
import { account } from "./routes/account.ts";
import { admin } from "./routes/admin.ts";
import { adminOrigins } from "./routes/admin-origins.ts";
import { auditLog } from "./routes/audit.ts";
import { batches } from "./routes/batches.ts";
import { billing } from "./routes/billing.ts";
import { billingAdmin } from "./routes/billing-admin.ts";
import { builds } from "./routes/builds.ts";
import { collections } from "./routes/collections.ts";
import { deployments } from "./routes/deployments.ts";
import { estimates } from "./routes/estimates.ts";
import { examples } from "./routes/examples.ts";
import { files } from "./routes/files.ts";
import { health } from "./routes/health.ts";
import { metrics } from "./routes/metrics.ts";
import { models } from "./routes/models.ts";
import { organizations } from "./routes/organizations.ts";
import { originCaches } from "./routes/origin-caches.ts";
import { originOutputs } from "./routes/origin-outputs.ts";
import { originPackages } from "./routes/origin-packages.ts";
import { originRegistry } from "./routes/origin-registry.ts";
import { originWeights } from "./routes/origin-weights.ts";
import { origins } from "./routes/origins.ts";
import { outputs } from "./routes/outputs.ts";
import { addDocs, readPage } from "./routes/pages.ts";
import { predictions } from "./routes/predictions.ts";
import { registry } from "./routes/registry.ts";
import { newRouter } from "./routes/router.ts";
import { search } from "./routes/search.ts";
import { shares } from "./routes/shares.ts";
import { status } from "./routes/status.ts";
import { streams } from "./routes/streams.ts";
import { tokens } from "./routes/tokens.ts";
import { trainings } from "./routes/trainings.ts";
import { versions } from "./routes/versions.ts";
import { webhooks } from "./routes/webhooks.ts";

export const app = newRouter();
app.onError(renderError);
app.use(requestFrame);
app.use(audit);

const METHODS = ["GET", "HEAD", "QUERY", "POST", "PUT", "PATCH", "DELETE"];

/** Browsers may call the API from any page: a token is in a header, never in a cookie, so no page acts for another. */
const publicApi = cors({
  origin: "*",
  allowMethods: METHODS,
  exposeHeaders: [
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Should-Retry",
    "X-Request-Id",
    "Traceparent",
    "X-Cogway-Cache",
    "ETag",
    "Content-Range",
    "Accept-Ranges",
    "Content-Length",
  ],
  maxAge: 86_400,
});
for (const path of ["/v1/*", "/outputs/*", "/openapi.json"]) app.use(path, publicApi);

const routers = [
  ...[predictions, trainings, batches, streams, outputs, webhooks, estimates, billing, billingAdmin],
  ...[search, models, versions, builds, examples, shares, collections, deployments, files, registry],
  ...[
    account,
    tokens,
    organizations,
    auditLog,
    admin,
    adminOrigins,
    status,
    metrics,
    origins,
    originOutputs,
    originCaches,
    originPackages,
    originRegistry,
    originWeights,
    health,
  ],
];
for (const routes of routers) {
  app.route("/", routes);
}
addDocs(app);

app.notFound(async (c) => {
  const allowed = allowedMethods(c);
  if (allowed.length > 0) {
    const headers = { allow: allowed.join(", ") };
    return problemResponse(c, "request.method_not_allowed", `${c.req.method} is not allowed here.`, { headers });
  }
  return (await readPage(c)) ?? problemResponse(c, "route.not_found", "There is nothing at this address.");
});

/** The methods that routes have at the request's path. */
function allowedMethods(c: Context<AppEnv>): string[] {
  return METHODS.filter((method) => {
    const served = method === "HEAD" ? "GET" : method;
    return app.router.match(served, c.req.path)[0].some(([[, route]]) => route.method === served);
  });
}
