/** Who may do what: every route of the API against its owner, another account, a token that is too narrow, and no token. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { auditStub } from "../durable-objects/stubs.ts";
import { hashToken, SCOPES, tokenId } from "../schema/tokens.ts";
import { app } from "./app.ts";
import { AUDITED, DATA_PLANE } from "./middleware/audit.ts";
import { openapiDocument } from "./openapi-document.ts";
import { aVersion } from "./testing/catalog.ts";
import {
  aDestination,
  anAccount,
  anAnnounce,
  aToken,
  aTrainer,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";
import { aSource } from "./testing/packages.ts";

let operator: string;
let owner: { id: string; username: string; token: string };
let other: { id: string; username: string; token: string };
let version: string;
let organization: string;
/** a token of the owner that a test may revoke */
let spare: string;
let id: string;
let trainer: string;
/** a training of the owner, and a model of it that trainings may go to */
let training: string;
let destination: string;
/** a batch of the owner that ended */
let batch: string;
const addresses = { stream: "", output: "" };
/** ids of files and uploads of the owner */
const uploaded = { file: "", deleted: "", upload: "", aborted: "" };
const FORM = '--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\nx\r\n--b--\r\n';
const FORM_HEADERS = { "content-type": "multipart/form-data; boundary=b" };

const idOf = async (answer: Response): Promise<string> => (await answer.json<{ id: string }>()).id;
const aDeployment = (name: string) => ({
  name,
  model: "cogway/echo",
  version,
  hardware: "cpu",
  min_instances: 0,
  max_instances: 1,
});
const aBatch = () => ({ version, inputs: [{ text: "x" }] });
/** a private model of the owner, a version of it that nothing refers to, and its example */
let model: string;
let modelVersion: string;
let example: string;
/** a source in its repository, and a build of it that ended */
let source: string;
let build: string;
const aCollection = { name: "Some", description: "A few.", models: ["cogway/echo"] };

async function aCatalog(origin: FakeOrigin): Promise<{ path: string; version: string }> {
  for (const slug of ["kept", "gone"]) {
    await call("PUT", `/admin/v1/collections/${slug}`, { token: operator, body: aCollection });
  }
  for (const name of ["empty", "full"]) {
    await call("POST", "/v1/models", {
      token: owner.token,
      body: { owner: owner.username, name, visibility: "private", hardware: "cpu" },
    });
  }
  const path = `/v1/models/${owner.username}/full`;
  await call("PATCH", path, { token: owner.token, body: { readme: "# Full" } });
  await call("PUT", `${path}/shares/${organization}`, { token: owner.token });
  const shown = await aVersion(path);
  example = await origin.aRunning(owner.token, shown);
  await origin.events(example, 1, [
    { type: "output", mode: "set", value: "x" },
    { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 },
  ]);
  await call("POST", `${path}/examples`, { token: owner.token, body: { prediction_id: example } });
  source = await aSource(path);
  build = await idOf(await call("POST", `${path}/builds`, { token: owner.token, body: { manifest: source } }));
  await call("POST", `${path}/builds/${build}/cancel`, { token: owner.token });
  return { path, version: await aVersion(path) };
}
const TRAINING_INPUT = { train_data: "https://files.example/data.zip" };

beforeAll(async () => {
  operator = await theOperator();
  // What is no origin is a receiver of webhooks.
  vi.stubGlobal("fetch", async () => new Response(null, { status: 204 }));
  const origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  [owner, other] = await Promise.all([anAccount(), anAccount()]);
  organization = `o${crypto.randomUUID()}`;
  await call("POST", "/v1/organizations", { token: owner.token, body: { username: organization, name: "Acme" } });
  spare = await aToken(owner.id, []);
  trainer = await origin.announce("trainer", aTrainer());
  destination = await aDestination(owner);
  training = await idOf(
    await call("POST", `/v1/models/cogway/trainer/versions/${trainer}/trainings`, {
      token: owner.token,
      body: { destination, input: TRAINING_INPUT, webhook: "https://receiver.example/" },
    }),
  );
  await call("POST", `/v1/trainings/${training}/cancel`, { token: owner.token });
  batch = await idOf(await call("POST", "/v1/batches", { token: owner.token, body: aBatch() }));
  await call("POST", `/v1/batches/${batch}/cancel`, { token: owner.token });
  for (const name of ["kept", "gone"]) {
    await call("POST", "/v1/deployments", { token: owner.token, body: aDeployment(name) });
  }
  ({ path: model, version: modelVersion } = await aCatalog(origin));
  const made = await call("POST", "/v1/predictions", {
    token: owner.token,
    body: { version, input: { text: "mine" }, webhook: "https://receiver.example/" },
  });
  const prediction = await predictionOf(made);
  id = prediction.id;
  await origin.attemptOf(id);
  await origin.events(id, 0, [{ type: "started" }]);
  const bytes = "bytes";
  const file = await origin.send("PUT", `/origin/v1/outputs/${id}/1/0/f.txt`, bytes, {
    "content-type": "text/plain",
    "content-length": "5",
  });
  await origin.events(id, 1, [
    { type: "output", mode: "set", value: await file.json() },
    { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 },
  ]);
  for (const name of ["file", "deleted"] as const) {
    uploaded[name] = await idOf(
      await call("POST", "/v1/files", { token: owner.token, body: FORM, headers: FORM_HEADERS }),
    );
  }
  for (const name of ["upload", "aborted"] as const) {
    const wanted = { name: "f", size_bytes: 1 };
    uploaded[name] = await idOf(await call("POST", "/v1/files/uploads", { token: owner.token, body: wanted }));
  }
  const ended = await predictionOf(await call("GET", `/v1/predictions/${id}`, { token: owner.token }));
  addresses.stream = (ended.urls["stream"] ?? "").replace(PUBLIC_URL, "");
  addresses.output = String(ended.output).replace(PUBLIC_URL, "");
});

/** One row of the matrix: a request that its owner may make, and what it answers to whom. */
interface Access {
  path?: string;
  body?: unknown;
  headers?: Record<string, string>;
  /** private: another account does not find it; owned: it sees it and may not; shared: every account may; own: each sees its own */
  /** insight: private, but the operator may look */
  kind: "private" | "insight" | "owned" | "shared" | "own" | "public" | "operator" | "origin";
  status: number;
}
const input = { text: "x" };
const matrix: Record<string, () => Access> = {
  // First: an origin that sends no heartbeats is lost after 20 s.
  "GET /healthz": () => ({ kind: "public", status: 200 }),
  "POST /v1/predictions": () => ({ kind: "own", body: { version, input }, status: 201 }),
  "GET /v1/predictions": () => ({ kind: "own", status: 200 }),
  "GET /v1/predictions/{prediction_id}": () => ({ kind: "private", path: `/v1/predictions/${id}`, status: 200 }),
  "POST /v1/predictions/{prediction_id}/cancel": () => ({
    kind: "private",
    path: `/v1/predictions/${id}/cancel`,
    status: 200,
  }),
  "POST /v1/models/{owner}/{name}/predictions": () => ({
    kind: "own",
    path: "/v1/models/cogway/echo/predictions",
    body: { input },
    status: 201,
  }),
  "GET /v1/predictions/{prediction_id}/webhooks": () => ({
    kind: "private",
    path: `/v1/predictions/${id}/webhooks`,
    status: 200,
  }),
  "POST /v1/predictions/{prediction_id}/webhooks/{event}/replay": () => ({
    kind: "private",
    path: `/v1/predictions/${id}/webhooks/completed/replay`,
    status: 200,
  }),
  // The destination is the owner's.
  "POST /v1/models/{owner}/{name}/versions/{version_id}/trainings": () => ({
    kind: "private",
    path: `/v1/models/cogway/trainer/versions/${trainer}/trainings`,
    body: { destination, input: TRAINING_INPUT },
    status: 201,
  }),
  "GET /v1/trainings": () => ({ kind: "own", status: 200 }),
  "GET /v1/trainings/{training_id}": () => ({ kind: "private", path: `/v1/trainings/${training}`, status: 200 }),
  "POST /v1/trainings/{training_id}/cancel": () => ({
    kind: "private",
    path: `/v1/trainings/${training}/cancel`,
    status: 200,
  }),
  "GET /v1/trainings/{training_id}/webhooks": () => ({
    kind: "private",
    path: `/v1/trainings/${training}/webhooks`,
    status: 200,
  }),
  "POST /v1/trainings/{training_id}/webhooks/{event}/replay": () => ({
    kind: "private",
    path: `/v1/trainings/${training}/webhooks/completed/replay`,
    status: 200,
  }),
  "GET /v1/deployments": () => ({ kind: "own", status: 200 }),
  "POST /v1/deployments": () => ({ kind: "own", body: aDeployment(`d${crypto.randomUUID()}`), status: 200 }),
  "GET /v1/deployments/{owner}/{name}": () => ({
    kind: "private",
    path: `/v1/deployments/${owner.username}/kept`,
    status: 200,
  }),
  "PATCH /v1/deployments/{owner}/{name}": () => ({
    kind: "private",
    path: `/v1/deployments/${owner.username}/kept`,
    body: { max_instances: 2 },
    status: 200,
  }),
  "GET /v1/deployments/{owner}/{name}/releases": () => ({
    kind: "private",
    path: `/v1/deployments/${owner.username}/kept/releases`,
    status: 200,
  }),
  "GET /v1/deployments/{owner}/{name}/scaling": () => ({
    kind: "private",
    path: `/v1/deployments/${owner.username}/kept/scaling`,
    status: 200,
  }),
  "POST /v1/deployments/{owner}/{name}/predictions": () => ({
    kind: "private",
    path: `/v1/deployments/${owner.username}/kept/predictions`,
    body: { input },
    status: 201,
  }),
  "DELETE /v1/deployments/{owner}/{name}": () => ({
    kind: "private",
    path: `/v1/deployments/${owner.username}/gone`,
    status: 204,
  }),
  "POST /v1/batches": () => ({ kind: "own", body: aBatch(), status: 201 }),
  "GET /v1/batches": () => ({ kind: "own", status: 200 }),
  "GET /v1/batches/{batch_id}": () => ({ kind: "private", path: `/v1/batches/${batch}`, status: 200 }),
  "POST /v1/batches/{batch_id}/cancel": () => ({ kind: "private", path: `/v1/batches/${batch}/cancel`, status: 200 }),
  "GET /v1/batches/{batch_id}/results": () => ({ kind: "private", path: `/v1/batches/${batch}/results`, status: 200 }),
  "GET /v1/search": () => ({ kind: "shared", path: "/v1/search?query=echo", status: 200 }),
  "GET /v1/search/models": () => ({ kind: "shared", path: "/v1/search/models?query=echo", status: 200 }),
  "QUERY /v1/models": () => ({ kind: "shared", body: "echo", headers: { "content-type": "text/plain" }, status: 200 }),
  "GET /v1/webhooks/default/secret": () => ({ kind: "own", status: 200 }),
  "POST /v1/webhooks/default/secret/rotate": () => ({ kind: "own", status: 200 }),
  "POST /v1/webhooks/test": () => ({ kind: "own", body: { url: "https://receiver.example/" }, status: 200 }),
  "GET /v1/models": () => ({ kind: "shared", status: 200 }),
  "POST /v1/models": () => ({
    kind: "owned",
    body: { owner: owner.username, name: `m${crypto.randomUUID()}`, visibility: "private", hardware: "cpu" },
    status: 201,
  }),
  "PATCH /v1/models/{owner}/{name}": () => ({ kind: "private", path: model, body: { title: "T" }, status: 200 }),
  "DELETE /v1/models/{owner}/{name}": () => ({
    kind: "private",
    path: `/v1/models/${owner.username}/empty`,
    status: 204,
  }),
  "DELETE /v1/models/{owner}/{name}/versions/{version_id}": () => ({
    kind: "private",
    path: `${model}/versions/${modelVersion}`,
    status: 202,
  }),
  "GET /v1/models/{owner}/{name}/examples": () => ({ kind: "private", path: `${model}/examples`, status: 200 }),
  "DELETE /v1/models/{owner}/{name}/examples/{prediction_id}": () => ({
    kind: "private",
    path: `${model}/examples/${example}`,
    status: 204,
  }),
  "POST /v1/models/{owner}/{name}/examples": () => ({
    kind: "private",
    path: `${model}/examples`,
    body: { prediction_id: example },
    status: 201,
  }),
  "GET /v1/models/{owner}/{name}/shares": () => ({ kind: "private", path: `${model}/shares`, status: 200 }),
  "PUT /v1/models/{owner}/{name}/shares/{username}": () => ({
    kind: "private",
    path: `${model}/shares/${organization}`,
    status: 200,
  }),
  "DELETE /v1/models/{owner}/{name}/shares/{username}": () => ({
    kind: "private",
    path: `${model}/shares/${organization}`,
    status: 204,
  }),
  "GET /v1/collections": () => ({ kind: "shared", status: 200 }),
  "GET /v1/collections/{slug}": () => ({ kind: "shared", path: "/v1/collections/kept", status: 200 }),
  "PUT /admin/v1/collections/{slug}": () => ({
    kind: "operator",
    path: "/admin/v1/collections/kept",
    body: aCollection,
    status: 200,
  }),
  "DELETE /admin/v1/collections/{slug}": () => ({
    kind: "operator",
    path: "/admin/v1/collections/gone",
    status: 204,
  }),
  "GET /v1/models/{owner}/{name}": () => ({ kind: "shared", path: "/v1/models/cogway/echo", status: 200 }),
  "GET /v1/models/{owner}/{name}/readme": () => ({
    kind: "shared",
    path: "/v1/models/cogway/echo/readme",
    status: 200,
  }),
  "GET /v1/models/{owner}/{name}/versions": () => ({
    kind: "shared",
    path: "/v1/models/cogway/echo/versions",
    status: 200,
  }),
  "GET /v1/models/{owner}/{name}/versions/{version_id}": () => ({
    kind: "shared",
    path: `/v1/models/cogway/echo/versions/${version}`,
    status: 200,
  }),
  "GET /v1/models/{owner}/{name}/versions/{version_id}/diff": () => ({
    kind: "shared",
    path: `/v1/models/cogway/echo/versions/${version}/diff`,
    status: 200,
  }),
  "GET /v1/models/{owner}/{name}/setup-logs": () => ({ kind: "insight", path: `${model}/setup-logs`, status: 200 }),
  "POST /v1/models/{owner}/{name}/builds": () => ({
    kind: "private",
    path: `${model}/builds`,
    body: { manifest: source },
    status: 201,
  }),
  "GET /v1/models/{owner}/{name}/builds": () => ({ kind: "insight", path: `${model}/builds`, status: 200 }),
  "GET /v1/models/{owner}/{name}/builds/{build_id}": () => ({
    kind: "insight",
    path: `${model}/builds/${build}`,
    status: 200,
  }),
  "GET /v1/models/{owner}/{name}/builds/{build_id}/logs": () => ({
    kind: "insight",
    path: `${model}/builds/${build}/logs`,
    status: 200,
  }),
  "GET /v1/models/{owner}/{name}/builds/{build_id}/events": () => ({
    kind: "insight",
    path: `${model}/builds/${build}/events`,
    status: 200,
  }),
  "POST /v1/models/{owner}/{name}/builds/{build_id}/cancel": () => ({
    kind: "private",
    path: `${model}/builds/${build}/cancel`,
    status: 200,
  }),
  "GET /v1/hardware": () => ({ kind: "shared", status: 200 }),
  "GET /v1/account": () => ({ kind: "own", status: 200 }),
  "POST /v1/tokens": () => ({ kind: "own", body: { name: "x", scopes: ["account:read"] }, status: 201 }),
  "GET /v1/tokens": () => ({ kind: "own", status: 200 }),
  "GET /v1/tokens/{token_id}": () => ({
    kind: "private",
    path: `/v1/tokens/${tokenId(hashToken(owner.token))}`,
    status: 200,
  }),
  "DELETE /v1/tokens/{token_id}": () => ({
    kind: "private",
    path: `/v1/tokens/${tokenId(hashToken(spare))}`,
    status: 204,
  }),
  "POST /v1/organizations": () => ({
    kind: "own",
    body: { username: `o${crypto.randomUUID()}`, name: "X" },
    status: 201,
  }),
  "GET /v1/organizations": () => ({ kind: "own", status: 200 }),
  "GET /v1/organizations/{username}": () => ({
    kind: "private",
    path: `/v1/organizations/${organization}`,
    status: 200,
  }),
  "PATCH /v1/organizations/{username}": () => ({
    kind: "private",
    path: `/v1/organizations/${organization}`,
    body: { name: "X" },
    status: 200,
  }),
  "GET /v1/organizations/{username}/members": () => ({
    kind: "private",
    path: `/v1/organizations/${organization}/members`,
    status: 200,
  }),
  "GET /v1/organizations/{username}/members/{member}": () => ({
    kind: "private",
    path: `/v1/organizations/${organization}/members/${owner.username}`,
    status: 200,
  }),
  "PUT /v1/organizations/{username}/members/{member}": () => ({
    kind: "private",
    path: `/v1/organizations/${organization}/members/${owner.username}`,
    body: { role: "owner" },
    status: 200,
  }),
  // The last owner stays; who is no member learns nothing of it.
  "DELETE /v1/organizations/{username}/members/{member}": () => ({
    kind: "private",
    path: `/v1/organizations/${organization}/members/${owner.username}`,
    status: 409,
  }),
  "POST /admin/v1/accounts": () => ({
    kind: "operator",
    body: { type: "user", username: `u${crypto.randomUUID()}`, name: "New" },
    status: 201,
  }),
  "POST /v1/estimates": () => ({ kind: "shared", body: { version, input }, status: 200 }),
  "GET /v1/account/billing": () => ({ kind: "own", status: 200 }),
  "PATCH /v1/account/billing": () => ({ kind: "own", body: { budget: { day_micros: null } }, status: 200 }),
  "GET /v1/usage": () => ({ kind: "own", status: 200 }),
  "GET /v1/ledger": () => ({ kind: "own", status: 200 }),
  "GET /v1/invoices": () => ({ kind: "own", status: 200 }),
  "GET /v1/invoices/{month}": () => ({
    kind: "own",
    path: `/v1/invoices/${new Date().toISOString().slice(0, 7)}`,
    status: 200,
  }),
  "GET /admin/v1/accounts/{username}/terms": () => ({
    kind: "operator",
    path: `/admin/v1/accounts/${owner.username}/terms`,
    status: 200,
  }),
  "PATCH /admin/v1/accounts/{username}/terms": () => ({
    kind: "operator",
    path: `/admin/v1/accounts/${owner.username}/terms`,
    body: { discount_ppm: 0 },
    status: 200,
  }),
  "POST /admin/v1/accounts/{username}/credits": () => ({
    kind: "operator",
    path: `/admin/v1/accounts/${owner.username}/credits`,
    body: { id: "c1", kind: "payment", amount_micros: 1 },
    status: 200,
  }),
  "GET /admin/v1/prices": () => ({ kind: "operator", status: 200 }),
  "POST /admin/v1/prices": () => ({
    kind: "operator",
    body: { sku: `sku-${crypto.randomUUID()}`, price_micros: 1 },
    status: 201,
  }),
  "PATCH /v1/tokens/{token_id}": () => ({
    kind: "private",
    path: `/v1/tokens/${tokenId(hashToken(spare))}`,
    body: { budget: null },
    status: 200,
  }),
  "GET /metrics": () => ({ kind: "operator", status: 200 }),
  "GET /v1/status": () => ({ kind: "shared", status: 200 }),
  "GET /admin/v1/origins": () => ({ kind: "operator", status: 200 }),
  "POST /admin/v1/origins": () => ({ kind: "operator", status: 201 }),
  "POST /admin/v1/origins/{origin_id}/drain": () => ({
    kind: "operator",
    path: "/admin/v1/origins/none/drain",
    status: 404,
  }),
  "POST /admin/v1/origins/{origin_id}/undrain": () => ({
    kind: "operator",
    path: "/admin/v1/origins/none/undrain",
    status: 404,
  }),
  "DELETE /admin/v1/origins/{origin_id}": () => ({
    kind: "operator",
    path: "/admin/v1/origins/none",
    status: 404,
  }),
  "POST /admin/v1/models/{owner}/{name}/pause": () => ({
    kind: "operator",
    path: `${model.replace("/v1/", "/admin/v1/")}/pause`,
    body: { reason: "a test" },
    status: 200,
  }),
  "POST /admin/v1/models/{owner}/{name}/resume": () => ({
    kind: "operator",
    path: `${model.replace("/v1/", "/admin/v1/")}/resume`,
    status: 200,
  }),
  "POST /admin/v1/tokens/{token_id}/ban": () => ({
    kind: "operator",
    path: `/admin/v1/tokens/${tokenId(hashToken(spare))}/ban`,
    status: 204,
  }),
  "GET /admin/v1/accounts/{username}": () => ({
    kind: "operator",
    path: `/admin/v1/accounts/${owner.username}`,
    status: 200,
  }),
  "PATCH /admin/v1/accounts/{username}": () => ({
    kind: "operator",
    path: `/admin/v1/accounts/${owner.username}`,
    body: { zero_retention: false },
    status: 200,
  }),
  "GET /admin/v1/accounts/{username}/export": () => ({
    kind: "operator",
    path: `/admin/v1/accounts/${owner.username}/export`,
    status: 200,
  }),
  // The operator's own cannot be deleted.
  "DELETE /admin/v1/accounts/{username}": () => ({
    kind: "operator",
    path: "/admin/v1/accounts/cogway",
    status: 403,
  }),
  "GET /v1/audit": () => ({ kind: "own", status: 200 }),
  "GET /v1/audit/verify": () => ({ kind: "own", status: 200 }),
  "GET /admin/v1/audit": () => ({ kind: "operator", status: 200 }),
  "GET /admin/v1/audit/verify": () => ({ kind: "operator", status: 200 }),
  "GET /v1/streams/{token}": () => ({ kind: "public", path: addresses.stream, status: 200 }),
  "GET /v1/files/streams/{token}": () => ({
    kind: "public",
    path: addresses.stream.replace("/v1/", "/v1/files/"),
    status: 200,
  }),
  "POST /v1/files": () => ({ kind: "own", body: FORM, headers: FORM_HEADERS, status: 201 }),
  "GET /v1/files": () => ({ kind: "own", status: 200 }),
  "GET /v1/files/{file_id}": () => ({ kind: "private", path: `/v1/files/${uploaded.file}`, status: 200 }),
  "GET /v1/files/{file_id}/download": () => ({
    kind: "private",
    path: `/v1/files/${uploaded.file}/download`,
    status: 200,
  }),
  "DELETE /v1/files/{file_id}": () => ({ kind: "private", path: `/v1/files/${uploaded.deleted}`, status: 204 }),
  "POST /v1/files/uploads": () => ({ kind: "own", body: { name: "f", size_bytes: 1 }, status: 201 }),
  "GET /v1/files/uploads/{upload_id}": () => ({
    kind: "private",
    path: `/v1/files/uploads/${uploaded.upload}`,
    status: 200,
  }),
  "PUT /v1/files/uploads/{upload_id}/parts/{n}": () => ({
    kind: "private",
    path: `/v1/files/uploads/${uploaded.upload}/parts/1`,
    body: "x",
    headers: { "content-length": "1" },
    status: 200,
  }),
  "POST /v1/files/uploads/{upload_id}/complete": () => ({
    kind: "private",
    path: `/v1/files/uploads/${uploaded.upload}/complete`,
    status: 201,
  }),
  "DELETE /v1/files/uploads/{upload_id}": () => ({
    kind: "private",
    path: `/v1/files/uploads/${uploaded.aborted}`,
    status: 204,
  }),
  "GET /outputs/{prediction_id}/{n}/{name}": () => ({ kind: "public", path: addresses.output, status: 200 }),
  "POST /origin/v1/register": () => ({ kind: "origin", body: {}, status: 422 }),
  "POST /origin/v1/heartbeat": () => ({ kind: "origin", body: {}, status: 401 }),
  "POST /origin/v1/events": () => ({ kind: "origin", body: {}, status: 401 }),
  "PUT /origin/v1/models/{name}": () => ({ kind: "origin", path: "/origin/v1/models/echo", body: {}, status: 401 }),
  "PUT /origin/v1/outputs/{prediction_id}/{attempt}/{n}/{name}": () => ({
    kind: "origin",
    path: `/origin/v1/outputs/${id}/1/0/f.txt`,
    body: "x",
    status: 401,
  }),
  "POST /origin/v1/outputs/{prediction_id}/{attempt}/{n}/{name}/parts": () => ({
    kind: "origin",
    path: `/origin/v1/outputs/${id}/1/0/f.txt/parts`,
    body: {},
    status: 401,
  }),
  "PUT /origin/v1/outputs/{prediction_id}/{attempt}/{n}/{name}/parts/{part}": () => ({
    kind: "origin",
    path: `/origin/v1/outputs/${id}/1/0/f.txt/parts/1`,
    body: "x",
    status: 401,
  }),
  "POST /origin/v1/outputs/{prediction_id}/{attempt}/{n}/{name}/complete": () => ({
    kind: "origin",
    path: `/origin/v1/outputs/${id}/1/0/f.txt/complete`,
    body: {},
    status: 401,
  }),
  "POST /origin/v1/weights/{prediction_id}/{attempt}": () => ({
    kind: "origin",
    path: `/origin/v1/weights/${id}/1`,
    body: {},
    status: 401,
  }),
  "GET /origin/v1/weights/{sha256}/{name}": () => ({
    kind: "origin",
    path: `/origin/v1/weights/${"0".repeat(64)}/w`,
    status: 401,
  }),
  "GET /origin/v1/compile-caches/{version_id}/{key}": () => ({
    kind: "origin",
    path: `/origin/v1/compile-caches/${version}/${"0".repeat(64)}`,
    status: 401,
  }),
  "PUT /origin/v1/compile-caches/{version_id}/{key}": () => ({
    kind: "origin",
    path: `/origin/v1/compile-caches/${version}/${"0".repeat(64)}`,
    body: {},
    status: 401,
  }),
  "POST /origin/v1/builds/{build_id}/events": () => ({
    kind: "origin",
    path: `/origin/v1/builds/${build}/events`,
    body: {},
    status: 401,
  }),
  "GET /origin/v1/packages/{owner}/{name}/{version_id}": () => ({
    kind: "origin",
    path: `/origin/v1/packages/cogway/echo/${version}`,
    status: 401,
  }),
  "GET /origin/v1/repositories/{owner}/{name}/manifests/{digest}": () => ({
    kind: "origin",
    path: `/origin/v1/repositories/cogway/echo/manifests/${source}`,
    status: 401,
  }),
  "GET /origin/v1/repositories/{owner}/{name}/blobs/{digest}": () => ({
    kind: "origin",
    path: `/origin/v1/repositories/cogway/echo/blobs/${source}`,
    status: 401,
  }),
  "POST /origin/v1/repositories/{owner}/{name}/token": () => ({
    kind: "origin",
    path: "/origin/v1/repositories/cogway/echo/token",
    body: {},
    status: 401,
  }),
  "GET /origin/v1/inputs/{prediction_id}": () => ({ kind: "origin", path: `/origin/v1/inputs/${id}`, status: 401 }),
};

/** How many entries a request left in all audit logs of these tests. */
async function auditEntries(requestId: string | null): Promise<number> {
  const found = await env.DB.prepare("SELECT id FROM accounts WHERE username = ?")
    .bind(organization)
    .first<string>("id");
  const logs = await Promise.all(
    [owner.id, other.id, "cogway", found ?? ""].map((id) => auditStub(env, id).list({ before_seq: null, limit: 200 })),
  );
  return logs.flatMap(({ entries }) => entries).filter(({ request_id }) => request_id === requestId).length;
}

const documented = Object.entries(openapiDocument(app).paths ?? {}).flatMap(([path, methods]) =>
  Object.keys(methods).map((method) => `${method.replace(/^x-/, "").toUpperCase()} ${path}`),
);

describe("the access matrix", () => {
  it("has every route of the API", () => {
    expect(documented.toSorted()).toEqual(Object.keys(matrix).toSorted());
  });

  it("says of every route that changes something whether it is audited", () => {
    const changing = documented.filter((route) => !/^(GET|QUERY) |\/origin\//.test(route));
    const listed = [...Object.keys(AUDITED), ...DATA_PLANE];
    expect(changing.filter((route) => !listed.includes(route))).toEqual([]);
    const gone = listed.filter((route) => !documented.includes(route) && !route.includes(" /v2/"));
    expect(gone).toEqual([]);
  });

  it.each(Object.keys(matrix))("%s", async (route) => {
    const [method = "", pattern = ""] = route.split(" ");
    const statusFor = async (token?: string): Promise<number> => {
      const { path = pattern, body, headers = {} } = matrix[route]?.() ?? {};
      const answer = await call(method, path, { ...(token === undefined ? {} : { token }), body, headers });
      const isAudited = answer.status < 400 && token !== undefined && route in AUDITED;
      expect(await auditEntries(answer.headers.get("x-request-id"))).toBe(isAudited ? 1 : 0);
      if (answer.status >= 400) expect((await problemOf(answer)).status).toBe(answer.status);
      else await answer.body?.cancel();
      return answer.status;
    };
    const { kind = "public", status } = matrix[route]?.() ?? {};
    const narrow = await aToken(owner.id, ["admin"]);
    const narrowForAdmin = await aToken(
      owner.id,
      SCOPES.filter((scope) => scope !== "admin" && scope !== "metrics:read"),
    );
    switch (kind) {
      case "public":
      case "origin":
        for (const token of [owner.token, other.token, operator, undefined])
          expect(await statusFor(token)).toBe(status);
        break;
      case "operator":
        expect(await statusFor(operator)).toBe(status);
        for (const token of [owner.token, other.token, narrowForAdmin]) expect(await statusFor(token)).toBe(403);
        expect(await statusFor()).toBe(401);
        break;
      default:
        expect(await statusFor(owner.token)).toBe(status);
        for (const token of [other.token, operator]) {
          const insight = token === operator ? status : 404;
          expect(await statusFor(token)).toBe({ private: 404, insight, owned: 403, shared: status, own: status }[kind]);
        }
        expect(await statusFor(narrow)).toBe(403);
        expect(await statusFor()).toBe(401);
    }
  });

  it("lists nothing of another account", async () => {
    const { results } = await (await call("GET", "/v1/predictions", { token: other.token })).json<{
      results: { id: string }[];
    }>();
    expect(results.map((row) => row.id)).not.toContain(id);
  });
});
