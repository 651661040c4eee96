/** Compile caches between origins and R2: signed, bounded, gone with their version. */
import { env } from "cloudflare:workers";
import { beforeAll, expect, it } from "vitest";
import { OUTPUT_PART_BYTES } from "../schema/origin-protocol.ts";
import { bodyDigest } from "../schema/request-signature.ts";
import { COMPILE_CACHES_MAX, compileCacheKey, removeCompileCaches } from "./domain/compile-caches.ts";
import { anAnnounce, call, FakeOrigin, problemOf, theOperator } from "./testing/edge.ts";

const KEY = "a".repeat(64);
const CACHE = new TextEncoder().encode("a gzipped tar");
let origin: FakeOrigin;
let version: string;
const pathOf = (id = version, key = KEY): string => `/origin/v1/compile-caches/${id}/${key}`;
const put = (path: string, headers = {}, digest = bodyDigest(CACHE)): Promise<Response> =>
  origin.send("PUT", path, CACHE, { "content-length": String(CACHE.byteLength), ...headers }, digest);

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("compiles", anAnnounce());
});

it("guarantees that the last one that was kept comes back, and goes with its version", async () => {
  expect((await origin.send("GET", pathOf())).status).toBe(404);
  expect((await put(pathOf())).status).toBe(200);
  expect(await (await origin.send("GET", pathOf())).text()).toBe("a gzipped tar");
  await removeCompileCaches(env.FILES, version);
  expect(await env.FILES.head(compileCacheKey(version, KEY))).toBeNull();
  expect((await origin.send("GET", pathOf())).status).toBe(404);
});

it("keeps a bounded number of a version: the one that was written longest ago goes first", async () => {
  const keys = Array.from({ length: COMPILE_CACHES_MAX + 2 }, (_, n) => String(n).padStart(64, "0"));
  for (const key of keys) expect((await put(pathOf(version, key))).status).toBe(200);
  const { objects } = await env.FILES.list({ prefix: `compile-caches/${version}/` });
  expect(objects.map(({ key }) => key)).toEqual(keys.slice(2).map((key) => compileCacheKey(version, key)));
  await removeCompileCaches(env.FILES, version);
});

it("keeps nothing of a version that is not there, of too many bytes, or of other bytes than were signed", async () => {
  expect((await put(pathOf("b".repeat(64)))).status).toBe(404);
  const large = await put(pathOf(), { "content-length": String(OUTPUT_PART_BYTES + 1) });
  expect([large.status, (await problemOf(large)).code]).toEqual([413, "request.too_large"]);
  expect((await put(pathOf(), {}, bodyDigest("something else"))).status).toBe(400);
  expect(await env.FILES.head(compileCacheKey(version, KEY))).toBeNull();
});

it("is the origins' alone", async () => {
  expect((await call("GET", pathOf(), {})).status).toBe(401);
  expect((await call("PUT", pathOf(), { body: {} })).status).toBe(401);
});
