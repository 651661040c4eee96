/** The OCI distribution API inside workerd: who may do what, uploads of every kind, manifests and lists. The conformance program is in e2e/registry.e2e.ts. */

import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { repositoryStub } from "../durable-objects/stubs.ts";
import { hashToken } from "../schema/tokens.ts";
import { app } from "./app.ts";
import { aModel, aVersion, type Person } from "./testing/catalog.ts";
import { anAccount, aToken, call, FakeOrigin, theOperator } from "./testing/edge.ts";

const PART = 8_388_608;
const OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX = "application/vnd.oci.image.index.v1+json";

let operator: string;
let alice: Person;
let bob: Person;
/** owner/name */
let repo: string;

const newRepository = async (by = alice): Promise<string> => (await aModel(by)).slice("/v1/models/".length);

beforeAll(async () => {
  operator = await theOperator();
  await FakeOrigin.join();
  alice = await anAccount();
  bob = await anAccount();
  repo = await newRepository();
});

const basic = (token: string): Record<string, string> => ({
  authorization: `Basic ${Buffer.from(`anybody:${token}`).toString("base64")}`,
});

interface Ticket {
  token: string;
  access: { type: string; name: string; actions: string[] }[];
}

async function ticket(token: string, ...scopes: string[]): Promise<Ticket> {
  const query = new URLSearchParams([["service", "x"], ...scopes.map((scope) => ["scope", scope] as [string, string])]);
  const answer = await call("GET", `/v2/token?${query}`, { headers: basic(token) });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  const { token: jwt } = await answer.json<{ token: string }>();
  const { access } = JSON.parse(Buffer.from(jwt.split(".")[1] ?? "", "base64url").toString());
  return { token: jwt, access };
}

interface Options {
  as?: Person;
  /** further scopes of its token */
  scopes?: string[];
  bytes?: Uint8Array | ReadableStream<Uint8Array>;
  headers?: Record<string, string>;
}

/** A request as a client makes it that has got a token for it. */
async function oci(method: string, repository: string, path: string, options: Options = {}): Promise<Response> {
  const { as = alice, scopes = [], bytes, headers = {} } = options;
  const { token } = await ticket(as.token, `repository:${repository}:pull,push,delete`, ...scopes);
  return call(method, path.startsWith("/") ? path : `/v2/${repository}/${path}`, {
    token,
    headers,
    ...(bytes === undefined ? {} : { bytes }),
  });
}

async function errorOf(answer: Response): Promise<[status: number, code: string, message: string]> {
  const { errors } = await answer.json<{ errors: { code: string; message: string }[] }>();
  expect(errors).toHaveLength(1);
  return [answer.status, errors[0]?.code ?? "", errors[0]?.message ?? ""];
}

async function refused(answer: Promise<Response>): Promise<[status: number, code: string]> {
  const [status, code] = await errorOf(await answer);
  return [status, code];
}

const digestOf = (bytes: Uint8Array, algorithm = "sha256"): string =>
  `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;

let seed = 1;
/** Bytes that nothing else here has. */
function someBytes(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  seed += 1;
  const words = new Uint32Array(bytes.buffer, 0, size >> 2);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 2_654_435_761 + seed);
  if (words.length === 0) bytes.fill(seed);
  return bytes;
}

function stream(...chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    type: "bytes",
    start(controller) {
      for (const chunk of chunks) if (chunk.length > 0) controller.enqueue(chunk.slice());
      controller.close();
    },
  });
}

async function push(bytes: Uint8Array, repository = repo, options: Options = {}): Promise<string> {
  const digest = digestOf(bytes);
  const answer = await oci("POST", repository, `blobs/uploads/?digest=${digest}`, { ...options, bytes });
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  return digest;
}

async function begin(repository = repo): Promise<string> {
  const answer = await oci("POST", repository, "blobs/uploads/");
  expect(answer.status).toBe(202);
  return answer.headers.get("location") ?? "";
}

/** Digest and size of what is read, which says as much as the bytes and is compared in no time. */
async function pulled(digest: string, repository = repo): Promise<{ sha256: string; size: number }> {
  const answer = await oci("GET", repository, `blobs/${digest}`);
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  return contentOf(new Uint8Array(await answer.arrayBuffer()));
}

const contentOf = (bytes: Uint8Array) => ({ sha256: digestOf(bytes), size: bytes.length });

interface Manifest {
  bytes: Uint8Array;
  digest: string;
}

function manifestOf(value: unknown): Manifest {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return { bytes, digest: digestOf(bytes) };
}

const descriptor = (digest: string, mediaType = "application/octet-stream") => ({ mediaType, digest, size: 1 });

async function anImage(change: Record<string, unknown> = {}, repository = repo): Promise<Manifest> {
  const config = await push(someBytes(100), repository);
  const layer = await push(someBytes(1_000), repository);
  return manifestOf({
    schemaVersion: 2,
    mediaType: OCI_IMAGE,
    config: descriptor(config),
    layers: [descriptor(layer)],
    ...change,
  });
}

const put = (manifest: Manifest, reference: string, repository = repo, type = OCI_IMAGE): Promise<Response> =>
  oci("PUT", repository, `manifests/${reference}`, { bytes: manifest.bytes, headers: { "content-type": type } });

describe("the token flow", () => {
  it("tells whoever is not logged in where to get a token, and for what", async () => {
    const answer = await call("GET", "/v2/");
    expect(await refused(Promise.resolve(answer))).toEqual([401, "UNAUTHORIZED"]);
    expect(answer.headers.get("www-authenticate")).toBe(
      `Bearer realm="${env.PUBLIC_URL}/v2/token",service="${new URL(env.PUBLIC_URL).host}"`,
    );
    expect(answer.headers.get("docker-distribution-api-version")).toBe("registry/2.0");
    const scopeOf = async (method: string, path: string): Promise<string | undefined> =>
      /scope="([^"]+)"/.exec((await call(method, path)).headers.get("www-authenticate") ?? "")?.[1];
    expect(await scopeOf("GET", "/v2/a/b/manifests/latest")).toBe("repository:a/b:pull");
    expect(await scopeOf("POST", "/v2/a/b/blobs/uploads/")).toBe("repository:a/b:pull,push");
    expect(await scopeOf("POST", "/v2/a/b/blobs/uploads/?mount=x&from=c/d")).toBe(
      "repository:a/b:pull,push repository:c/d:pull",
    );
    expect(await scopeOf("DELETE", "/v2/a/b/manifests/latest")).toBe("repository:a/b:delete");
    expect((await call("GET", "/v2/", { token: (await ticket(alice.token)).token })).status).toBe(200);
  });

  it("grants the subset that the token allows", async () => {
    const all = `repository:${repo}:pull,push,delete`;
    const accessOf = async (token: string, scope = all) => (await ticket(token, scope)).access;
    expect(await accessOf(alice.token)).toEqual([
      { type: "repository", name: repo, actions: ["pull", "push", "delete"] },
    ]);
    expect(await accessOf(alice.token, `repository:${repo}:*`)).toEqual(await accessOf(alice.token));
    expect(await accessOf(bob.token)).toEqual([]);
    expect((await accessOf(operator))[0]?.actions).toEqual(["pull"]);
    expect((await accessOf(await aToken(alice.id, ["models:read"])))[0]?.actions).toEqual(["pull"]);
    expect((await accessOf(await aToken(alice.id, ["models:write"])))[0]?.actions).toEqual(["push", "delete"]);
    expect(await accessOf(await aToken(alice.id, ["predictions:write"]))).toEqual([]);
    expect(await accessOf(alice.token, "repository:nobody/nothing:pull registry:catalog:* nonsense")).toEqual([]);
    const { access } = await ticket(alice.token, `${all} repository:${bob.username}/x:pull`, `repository:${repo}:pull`);
    expect(access.map(({ name }) => name)).toEqual([repo, repo]);
    const form = { grant_type: "password", username: "x", password: alice.token, scope: all };
    for (const fields of [form, { grant_type: "refresh_token", refresh_token: alice.token, scope: all }]) {
      const body = new URLSearchParams(fields).toString();
      const headers = { "content-type": "application/x-www-form-urlencoded", "content-length": String(body.length) };
      const answer = await call("POST", "/v2/token", { headers, bytes: new TextEncoder().encode(body) });
      expect(await answer.json()).toMatchObject({ expires_in: 900, access_token: expect.any(String) });
    }
  });

  it("refuses what is no live token", async () => {
    const wrong = `${alice.token.slice(0, -1)}${alice.token.endsWith("a") ? "b" : "a"}`;
    for (const headers of [{}, basic(wrong), basic(""), { authorization: "Basic %%%" }] as Record<string, string>[]) {
      expect(await refused(call("GET", "/v2/token", { headers }))).toEqual([401, "UNAUTHORIZED"]);
    }
    const { token } = await ticket(alice.token, `repository:${repo}:pull`);
    const [head = "", body = "", signature = ""] = token.split(".");
    const none = Buffer.from('{"alg":"none"}').toString("base64url");
    const forged = [`${head}.${body}.${signature.slice(1)}a`, `${none}.${body}.`, alice.token, "x"];
    for (const each of forged) {
      expect(await refused(call("GET", `/v2/${repo}/tags/list`, { token: each }))).toEqual([401, "UNAUTHORIZED"]);
    }
    expect((await call("GET", `/v2/${repo}/tags/list`, { token })).status).toBe(200);
  });

  it("narrows to what it was asked for: more needs another one", async () => {
    const other = await newRepository();
    const { token } = await ticket(alice.token, `repository:${repo}:pull`);
    const asks = [
      call("POST", `/v2/${repo}/blobs/uploads/`, { token }),
      call("DELETE", `/v2/${repo}/manifests/latest`, { token }),
      call("GET", `/v2/${other}/tags/list`, { token }),
    ];
    for (const answer of asks) expect(await refused(answer)).toEqual([401, "UNAUTHORIZED"]);
  });

  it("answers 404 for what a caller may not see, 403 for what it may not do, and says what to do", async () => {
    const own = await aModel(alice, { visibility: "public" });
    const open = own.slice("/v1/models/".length);
    const list = (name: string, as: Person) => oci("GET", name, "tags/list", { as });
    expect(await refused(list(repo, bob))).toEqual([404, "NAME_UNKNOWN"]);
    expect(await refused(list(open, bob))).toEqual([403, "DENIED"]);
    const [status, code, message] = await errorOf(await oci("POST", `${alice.username}/nothing`, "blobs/uploads/"));
    expect([status, code]).toEqual([404, "NAME_UNKNOWN"]);
    expect(message).toContain("cogway push");
    const reader = { ...alice, token: await aToken(alice.id, ["models:read"]) };
    const denied = await errorOf(await oci("POST", repo, "blobs/uploads/", { as: reader }));
    expect(denied).toEqual([403, "DENIED", "This token lacks the scope models:write."]);
    const cogway = { id: "", username: "cogway", token: operator };
    expect((await list(repo, cogway)).status).toBe(200);
    expect((await refused(oci("POST", repo, "blobs/uploads/", { as: cogway })))[0]).toBeGreaterThanOrEqual(403);
    const { token } = await ticket(alice.token);
    for (const [path, expected] of [
      ["a/b/c/manifests/x", "NAME_UNKNOWN"],
      ["a/manifests/x", "NAME_UNKNOWN"],
      ["A/b/manifests/x", "NAME_INVALID"],
      ["a/b/c/d/blobs/uploads/", "NAME_UNKNOWN"],
    ]) {
      expect((await refused(call("GET", `/v2/${path}`, { token })))[1], path).toBe(expected);
    }
  });
});

describe("uploads of blobs", () => {
  it.each([0, 1, 1_000, PART, PART + 1, 2 * PART - 1])(
    "guarantee the bytes whichever way %i of them come",
    async (size) => {
      const whole = someBytes(size);
      expect(await pulled(await push(whole))).toEqual(contentOf(whole));

      const putAlone = someBytes(size);
      const digest = digestOf(putAlone);
      const place = await begin();
      const made = await oci("PUT", repo, `${place}?digest=${digest}`, { bytes: putAlone });
      expect([made.status, made.headers.get("location")]).toEqual([201, `/v2/${repo}/blobs/${digest}`]);
      expect(await pulled(digest)).toEqual(contentOf(putAlone));

      const streamed = someBytes(size);
      const at = await begin();
      const half = size >> 1;
      const bytes = stream(streamed.subarray(0, half), streamed.subarray(half));
      const patched = await oci("PATCH", repo, at, { bytes });
      expect([patched.status, patched.headers.get("range")]).toEqual([202, `0-${Math.max(size - 1, 0)}`]);
      const ended = await oci("PUT", repo, `${patched.headers.get("location")}?digest=${digestOf(streamed)}`);
      expect(ended.status).toBe(201);
      expect(await pulled(digestOf(streamed))).toEqual(contentOf(streamed));
    },
  );

  it("guarantee the bytes of chunks of any size, the last one with the end", async () => {
    const sizes = [3, PART - 4, 5, PART + 2, 1, 2 * PART, 17];
    const whole = someBytes(sizes.reduce((sum, size) => sum + size, 0));
    for (const algorithm of ["sha256", "sha512"]) {
      let place = await begin();
      let first = 0;
      for (const [i, size] of sizes.entries()) {
        const bytes = whole.subarray(first, first + size);
        const headers = { "content-range": `${first}-${first + size - 1}`, "content-length": String(size) };
        first += size;
        if (i === sizes.length - 1) {
          const answer = await oci("PUT", repo, `${place}?digest=${digestOf(whole, algorithm)}`, { bytes, headers });
          expect(answer.status).toBe(201);
          break;
        }
        const answer = await oci("PATCH", repo, place, { bytes, headers });
        expect([answer.status, answer.headers.get("range")]).toEqual([202, `0-${first - 1}`]);
        place = answer.headers.get("location") ?? "";
        const status = await oci("GET", repo, place);
        expect([status.status, status.headers.get("range")]).toEqual([204, `0-${first - 1}`]);
      }
      expect(await pulled(digestOf(whole, algorithm))).toEqual(contentOf(whole));
    }
  });

  it("refuse chunks out of order, and go on where they were", async () => {
    const whole = someBytes(10);
    const place = await begin();
    const chunk = (first: number, last: number, header = `${first}-${last}`) =>
      oci("PATCH", repo, place, { bytes: whole.slice(first, last + 1), headers: { "content-range": header } });
    const early = await chunk(5, 9);
    expect([early.headers.get("range"), early.headers.get("location")]).toEqual(["0-0", place]);
    expect(await refused(Promise.resolve(early))).toEqual([416, "BLOB_UPLOAD_INVALID"]);
    expect((await chunk(0, 4)).status).toBe(202);
    expect(await refused(chunk(0, 4))).toEqual([416, "BLOB_UPLOAD_INVALID"]);
    expect(await refused(chunk(5, 9, "9-5"))).toEqual([400, "BLOB_UPLOAD_INVALID"]);
    const headers = { "content-range": "5-9", "content-length": "4" };
    expect(await refused(oci("PATCH", repo, place, { bytes: whole.slice(0, 4), headers }))).toEqual([
      400,
      "SIZE_INVALID",
    ]);
    expect((await chunk(5, 9)).status).toBe(202);
    expect((await oci("PUT", repo, `${place}?digest=${digestOf(whole)}`)).status).toBe(201);
  });

  it.each([9, 2 * PART])("refuse %i bytes of another digest, and keep none of them", async (size) => {
    const bytes = someBytes(size);
    const wrong = digestOf(someBytes(1));
    const place = await begin();
    expect(await refused(oci("POST", repo, `blobs/uploads/?digest=${wrong}`, { bytes }))).toEqual([
      400,
      "DIGEST_INVALID",
    ]);
    expect(await refused(oci("PUT", repo, `${place}?digest=${wrong}`, { bytes }))).toEqual([400, "DIGEST_INVALID"]);
    for (const digest of [wrong, digestOf(bytes)]) {
      expect((await oci("HEAD", repo, `blobs/${digest}`)).status).toBe(404);
    }
    expect(await refused(oci("GET", repo, place))).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
    const bad = await begin();
    for (const digest of ["sha256:abc", "md5:00", `sha256:${"A".repeat(64)}`, ""]) {
      expect(await refused(oci("PUT", repo, `${bad}?digest=${digest}`, { bytes }))).toEqual([400, "DIGEST_INVALID"]);
    }
  });

  it("end when they are cancelled, and say the same when the end is asked for again", async () => {
    const place = await begin();
    await oci("PATCH", repo, place, { bytes: someBytes(9) });
    expect((await oci("DELETE", repo, place)).status).toBe(204);
    for (const method of ["GET", "DELETE", "PATCH"]) {
      expect(await refused(oci(method, repo, place))).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
    }
    const bytes = someBytes(9);
    const again = await begin();
    for (let i = 0; i < 2; i++) {
      expect((await oci("PUT", repo, `${again}?digest=${digestOf(bytes)}`, { bytes })).status).toBe(201);
    }
  });

  it("belong to one request at a time: the later one counts", async () => {
    const [slow, quick] = [someBytes(9), someBytes(9)];
    const place = await begin();
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const body = new ReadableStream({
      type: "bytes",
      async pull(controller) {
        await held;
        controller.enqueue(slow.slice());
        controller.close();
      },
    });
    const first = oci("PATCH", repo, place, { bytes: body });
    await expect.poll(() => isLeased(place), { timeout: 5_000 }).toBe(true);
    expect((await oci("PATCH", repo, place, { bytes: quick })).status).toBe(202);
    release();
    expect(await refused(first)).toEqual([409, "BLOB_UPLOAD_INVALID"]);
    expect((await oci("PUT", repo, `${place}?digest=${digestOf(quick)}`)).status).toBe(201);
    expect(await pulled(digestOf(quick))).toEqual(contentOf(quick));
  });

  describe("through an origin that relays them", () => {
    const relay = "https://relay.example/up";

    async function relayed(method: string, path: string, token: string): Promise<Response> {
      const context = createExecutionContext();
      const headers = { authorization: `Bearer ${token}` };
      const request = new Request(new URL(path, env.PUBLIC_URL), { method, headers });
      const answer = await app.fetch(request, { ...env, UPLOAD_RELAY_URL: `${relay}/` }, context);
      await waitOnExecutionContext(context);
      return answer;
    }

    /** The address of a new upload, and what the relay makes of it. */
    async function beginRelayed(as = alice): Promise<{ path: string; capability: string }> {
      const { token } = await ticket(as.token, `repository:${repo}:pull,push`);
      return placeOf(await relayed("POST", `/v2/${repo}/blobs/uploads/`, token));
    }

    function placeOf(answer: Response): { path: string; capability: string } {
      const location = new URL(answer.headers.get("location") ?? "");
      expect(location.href.startsWith(`${relay}/relay/v2/${repo}/blobs/uploads/`)).toBe(true);
      return {
        path: location.pathname.slice("/up/relay".length),
        capability: location.searchParams.get("capability") ?? "",
      };
    }

    it("go on there with a token of their own, and end with an address of the edge", async () => {
      const { path, capability } = await beginRelayed();
      const state = await relayed("GET", path, capability);
      expect([state.status, state.headers.get("upload-offset")]).toEqual([204, "0"]);
      expect(placeOf(state).path).toBe(path);
      const bytes = someBytes(9);
      const patched = await call("PATCH", path, { token: capability, bytes });
      expect([patched.status, patched.headers.get("upload-offset")]).toEqual([202, "9"]);
      const digest = digestOf(bytes);
      const ended = await relayed("PUT", `${path}?digest=${digest}`, capability);
      expect([ended.status, ended.headers.get("location")]).toEqual([
        201,
        `${env.PUBLIC_URL}/v2/${repo}/blobs/${digest}`,
      ]);
      expect(await pulled(digest)).toEqual(contentOf(bytes));
    });

    it("stay here for who comes with a token of the registry", async () => {
      const { path } = await beginRelayed();
      expect((await oci("GET", repo, path)).headers.get("location")).toBe(path);
    });

    it("refuse a token that is forged, over, of another upload or another repository, or for anything else", async () => {
      const { path, capability } = await beginRelayed();
      const other = await beginRelayed();
      const elsewhere = path.replace(repo, await newRepository());
      const forged = `${capability.slice(0, -3)}abc`;
      for (const [method, at, token] of [
        ["GET", path, forged],
        ["GET", path, other.capability],
        ["GET", elsewhere, capability],
        ["DELETE", other.path, capability],
        ["POST", `/v2/${repo}/blobs/uploads/`, capability],
        ["GET", `/v2/${repo}/tags/list`, capability],
        ["GET", "/v2/", capability],
      ] as const) {
        expect(await refused(relayed(method, at, token)), `${method} ${at}`).toEqual([401, "UNAUTHORIZED"]);
      }
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 3_601_000 });
      try {
        expect(await refused(relayed("GET", path, capability))).toEqual([401, "UNAUTHORIZED"]);
      } finally {
        vi.useRealTimers();
      }
      expect((await relayed("DELETE", path, capability)).status).toBe(204);
    });

    it("end with the API token that they were begun by", async () => {
      const token = await aToken(alice.id, ["models:read", "models:write"]);
      const { path, capability } = await beginRelayed({ ...alice, token });
      expect((await relayed("GET", path, capability)).status).toBe(204);
      await env.DB.prepare("UPDATE tokens SET revoked_at = 1 WHERE hash = ?").bind(hashToken(token)).run();
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 5_000 });
      try {
        expect(await refused(relayed("GET", path, capability))).toEqual([401, "UNAUTHORIZED"]);
      } finally {
        vi.useRealTimers();
      }
    });
  });

  /** Whether a request has taken the upload: opening it at a byte where it cannot be changes nothing. */
  async function isLeased(place: string): Promise<boolean> {
    const id = place.split("/").at(-1) ?? "";
    const { runInDurableObject } = await import("cloudflare:test");
    const stub = (env.REPOSITORIES as unknown as DurableObjectNamespace).getByName(repo);
    return runInDurableObject(
      stub,
      (_, state) => state.storage.sql.exec("SELECT is_leased FROM uploads WHERE id = ?", id).one()["is_leased"] === 1,
    );
  }
});

describe("blobs", () => {
  it("are read in whole, in ranges and not at all", async () => {
    const bytes = someBytes(1_000);
    const digest = await push(bytes);
    const head = await oci("HEAD", repo, `blobs/${digest}`);
    expect([head.status, head.headers.get("content-length"), head.headers.get("docker-content-digest")]).toEqual([
      200,
      "1000",
      digest,
    ]);
    const part = await oci("GET", repo, `blobs/${digest}`, { headers: { range: "bytes=10-19" } });
    expect([part.status, part.headers.get("content-range")]).toEqual([206, "bytes 10-19/1000"]);
    expect(new Uint8Array(await part.arrayBuffer())).toEqual(bytes.slice(10, 20));
    expect((await refused(oci("GET", repo, `blobs/${digest}`, { headers: { range: "bytes=1000-" } })))[0]).toBe(416);
    expect(await refused(oci("GET", repo, "blobs/sha256:abc"))).toEqual([400, "DIGEST_INVALID"]);
    expect((await oci("DELETE", repo, `blobs/${digest}`)).status).toBe(202);
    expect(await refused(oci("GET", repo, `blobs/${digest}`))).toEqual([404, "BLOB_UNKNOWN"]);
    expect(await refused(oci("DELETE", repo, `blobs/${digest}`))).toEqual([404, "BLOB_UNKNOWN"]);
  });

  it("are read in ranges across their parts", async () => {
    const bytes = someBytes(2 * PART + 100);
    const digest = await push(bytes);
    for (const [first, last] of [
      [0, PART - 1],
      [PART - 1, PART],
      [PART, 2 * PART - 1],
      [5, 2 * PART + 7],
      [2 * PART, 2 * PART + 99],
      [PART + 3, 2 * PART + 99],
    ] as const) {
      const answer = await oci("GET", repo, `blobs/${digest}`, { headers: { range: `bytes=${first}-${last}` } });
      expect(answer.headers.get("content-range")).toBe(`bytes ${first}-${last}/${bytes.length}`);
      const read = contentOf(new Uint8Array(await answer.arrayBuffer()));
      expect(read, `${first}-${last}`).toEqual(contentOf(bytes.subarray(first, last + 1)));
    }
  });

  it("are of their repository alone, though the bytes are stored once", async () => {
    const bytes = someBytes(500);
    const digest = await push(bytes);
    const theirs = await newRepository(bob);
    for (const method of ["GET", "HEAD"]) {
      expect((await oci(method, theirs, `blobs/${digest}`, { as: bob })).status).toBe(404);
    }
    await push(bytes, theirs, { as: bob });
    const [mine, same] = await Promise.all([repo, theirs].map((name) => repositoryStub(env, name).blob(digest)));
    expect(same).toEqual(mine);
    await oci("DELETE", repo, `blobs/${digest}`);
    const left = await oci("GET", theirs, `blobs/${digest}`, { as: bob });
    expect(new Uint8Array(await left.arrayBuffer())).toEqual(bytes);
  });

  it("are mounted from where the caller may pull, and otherwise uploaded", async () => {
    const digest = await push(someBytes(500));
    const target = await newRepository();
    const theirs = await newRepository(bob);
    const mount = (into: string, from: string | null, as = alice, scopes = [`repository:${from}:pull`]) =>
      oci("POST", into, `blobs/uploads/?mount=${digest}${from === null ? "" : `&from=${from}`}`, { as, scopes });
    const of = async (answer: Promise<Response>) => (await answer).status;
    // Not theirs to read, not there, nowhere, no repository.
    expect(await of(mount(theirs, repo, bob))).toBe(202);
    expect(await of(mount(target, theirs))).toBe(202);
    expect(await of(mount(target, null))).toBe(202);
    expect(await of(mount(target, "a/b/c"))).toBe(202);
    expect((await oci("HEAD", theirs, `blobs/${digest}`, { as: bob })).status).toBe(404);
    // A token for the target alone is to be exchanged for one that may read as well.
    const narrow = await mount(target, repo, alice, []);
    expect(narrow.headers.get("www-authenticate")).toContain(`repository:${repo}:pull`);
    expect(narrow.status).toBe(401);
    const mounted = await mount(target, repo);
    expect([mounted.status, mounted.headers.get("location")]).toEqual([201, `/v2/${target}/blobs/${digest}`]);
    await oci("DELETE", repo, `blobs/${digest}`);
    expect((await pulled(digest, target)).size).toBe(500);
    expect(await of(mount(target, null))).toBe(201);
  });
});

describe("manifests", () => {
  it("are kept byte for byte, under their tags and their digest", async () => {
    const plain = await anImage();
    const spaced = new TextEncoder().encode(` ${new TextDecoder().decode(plain.bytes)}\n`);
    const manifest = { bytes: spaced, digest: digestOf(spaced) };
    const made = await put(manifest, "v1");
    expect([made.status, made.headers.get("location"), made.headers.get("docker-content-digest")]).toEqual([
      201,
      `/v2/${repo}/manifests/${manifest.digest}`,
      manifest.digest,
    ]);
    for (const reference of ["v1", manifest.digest]) {
      const answer = await oci("GET", repo, `manifests/${reference}`);
      expect(answer.headers.get("content-type")).toBe(OCI_IMAGE);
      expect(answer.headers.get("docker-content-digest")).toBe(manifest.digest);
      expect(new Uint8Array(await answer.arrayBuffer())).toEqual(spaced);
      const head = await oci("HEAD", repo, `manifests/${reference}`);
      expect([head.status, head.headers.get("content-length")]).toEqual([200, String(spaced.length)]);
    }
    expect((await put(manifest, manifest.digest)).status).toBe(201);
    const other = await anImage();
    await put(other, "v1");
    const moved = await oci("HEAD", repo, "manifests/v1");
    expect(moved.headers.get("docker-content-digest")).toBe(other.digest);
    expect((await oci("DELETE", repo, "manifests/v1")).status).toBe(202);
    expect(await refused(oci("GET", repo, "manifests/v1"))).toEqual([404, "MANIFEST_UNKNOWN"]);
    expect((await oci("GET", repo, `manifests/${other.digest}`)).status).toBe(200);
    expect((await oci("DELETE", repo, `manifests/${other.digest}`)).status).toBe(202);
    expect(await refused(oci("GET", repo, `manifests/${other.digest}`))).toEqual([404, "MANIFEST_UNKNOWN"]);
    for (const nothing of [other.digest, "v1", ".wrong", "sha256:x"]) {
      expect(await refused(oci("DELETE", repo, `manifests/${nothing}`))).toEqual([404, "MANIFEST_UNKNOWN"]);
    }
  });

  it("are taken only with everything that they name, and hold it", async () => {
    const missing = digestOf(someBytes(5));
    const config = await push(someBytes(5));
    const layers = [descriptor(missing)];
    const lacking = manifestOf({ schemaVersion: 2, mediaType: OCI_IMAGE, config: descriptor(config), layers });
    const [status, code, message] = await errorOf(await put(lacking, "x"));
    expect([status, code]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    expect(message).toContain(missing);
    // Layers that lie elsewhere need not be here.
    const foreign = descriptor(missing, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    const image = await anImage({ layers: [foreign] });
    expect((await put(image, "x")).status).toBe(201);
    const { config: held } = JSON.parse(new TextDecoder().decode(image.bytes));
    expect(await refused(oci("DELETE", repo, `blobs/${held.digest}`))).toEqual([405, "UNSUPPORTED"]);
    const index = (digest: string) =>
      manifestOf({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [descriptor(digest, OCI_IMAGE)] });
    expect(await refused(put(index(missing), "i", repo, OCI_INDEX))).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    expect((await put(index(image.digest), "i", repo, OCI_INDEX)).status).toBe(201);
    await oci("DELETE", repo, `manifests/${image.digest}`);
    expect((await oci("DELETE", repo, `blobs/${held.digest}`)).status).toBe(202);
  });

  it("are refused with a reason", async () => {
    const good = JSON.parse(new TextDecoder().decode((await anImage()).bytes)) as Record<string, unknown>;
    const invalid = async (value: unknown, type = OCI_IMAGE) => {
      const bytes = typeof value === "string" ? new TextEncoder().encode(value) : manifestOf(value).bytes;
      return errorOf(await put({ bytes, digest: "" }, "bad", repo, type));
    };
    for (const [value, type, words] of [
      ["{", OCI_IMAGE, "no JSON"],
      ["[]", OCI_IMAGE, "no JSON object"],
      [`${"[".repeat(100_000)}${"]".repeat(100_000)}`, OCI_IMAGE, "no JSON object"],
      [{ ...good, schemaVersion: 1 }, OCI_IMAGE, "schemaVersion"],
      [{ ...good, layers: [{ digest: "sha256:x" }] }, OCI_IMAGE, "layers.0"],
      [{ ...good, config: undefined }, OCI_IMAGE, "config"],
      [good, OCI_INDEX, "mediaType"],
      [{ ...good, mediaType: undefined }, "application/json", "not taken"],
      [{ ...good, mediaType: undefined }, "application/vnd.docker.distribution.manifest.v1+json", "not taken"],
    ] as const) {
      const [status, code, message] = await invalid(value, type);
      expect([status, code], words).toEqual([400, "MANIFEST_INVALID"]);
      expect(message).toContain(words);
    }
    const bytes = new Uint8Array(4_194_305).fill(32);
    expect(await refused(put({ bytes, digest: "" }, "big"))).toEqual([413, "SIZE_INVALID"]);
    const { bytes: fine } = manifestOf(good);
    expect(await refused(put({ bytes: fine, digest: "" }, digestOf(someBytes(3))))).toEqual([400, "DIGEST_INVALID"]);
    expect(await refused(put({ bytes: fine, digest: "" }, ".tag"))).toEqual([400, "TAG_INVALID"]);
    expect(await refused(put({ bytes: fine, digest: "" }, "t".repeat(129)))).toEqual([400, "TAG_INVALID"]);
    // As large as allowed, and larger than a row may be.
    const large = manifestOf({ ...good, x: "x".repeat(4_000_000) });
    expect((await put(large, "large")).status).toBe(201);
    expect((await oci("GET", repo, "manifests/large")).headers.get("content-length")).toBe(String(large.bytes.length));
  });

  it("stay as long as a version is made of them", async () => {
    const name = await newRepository();
    const image = await anImage({}, name);
    await put(image, "v1", name);
    const version = await aVersion(`/v1/models/${name}`);
    const ref = JSON.stringify({ kind: "image", repository: name, manifest: image.digest });
    await env.DB.prepare("UPDATE versions SET package = ? WHERE id = ?").bind(ref, version).run();
    const [status, code, message] = await errorOf(await oci("DELETE", name, `manifests/${image.digest}`));
    expect([status, code]).toEqual([403, "DENIED"]);
    expect(message).toContain(version);
    await env.DB.prepare("DELETE FROM versions WHERE id = ?").bind(version).run();
    expect((await oci("DELETE", name, `manifests/${image.digest}`)).status).toBe(202);
  });

  it("go with their model", async () => {
    const name = await newRepository();
    const image = await anImage({}, name);
    await put(image, "v1", name);
    const place = await begin(name);
    await oci("PATCH", name, place, { bytes: someBytes(9) });
    expect((await call("DELETE", `/v1/models/${name}`, { token: alice.token })).status).toBe(204);
    expect(await refused(oci("GET", name, "tags/list"))).toEqual([404, "NAME_UNKNOWN"]);
    const repository = repositoryStub(env, name);
    expect(await repository.manifest("v1")).toBeNull();
    expect(await repository.tags(10, null)).toEqual({ tags: [], more: false });
    expect(await repository.uploadSize(place.split("/").at(-1) ?? "")).toBeNull();
  });
});

describe("lists", () => {
  it("page through the tags in order", async () => {
    const name = await newRepository();
    expect(await (await oci("GET", name, "tags/list")).json()).toEqual({ name, tags: [] });
    const image = await anImage({}, name);
    for (const tag of ["b", "a", "_x", "Z", "c-1"]) await put(image, tag, name);
    const page = async (query: string) => {
      const answer = await oci("GET", name, `tags/list${query}`);
      return { ...(await answer.json<{ tags: string[] }>()), link: answer.headers.get("link") };
    };
    const all = ["Z", "_x", "a", "b", "c-1"];
    expect(await page("")).toEqual({ name, tags: all, link: null });
    const first = await page("?n=2");
    expect(first).toEqual({ name, tags: ["Z", "_x"], link: `</v2/${name}/tags/list?n=2&last=_x>; rel="next"` });
    expect((await page("?n=2&last=_x")).tags).toEqual(["a", "b"]);
    expect(await page("?n=9&last=b")).toEqual({ name, tags: ["c-1"], link: null });
    expect(await page("?n=0")).toEqual({ name, tags: [], link: null });
    expect(await refused(oci("GET", name, "tags/list?n=x"))).toEqual([400, "PAGINATION_NUMBER_INVALID"]);
    expect((await put(image, `${image.digest}?tag=p&tag=q`, name)).headers.get("oci-tag")).toBe("p, q");
    expect((await page("")).tags).toHaveLength(7);
  });

  it("show what is about a manifest, by kind", async () => {
    const name = await newRepository();
    const subject = await anImage({}, name);
    const about = (artifactType: string | undefined, note: string) =>
      anImage({ artifactType, subject: descriptor(subject.digest, OCI_IMAGE), annotations: { note } }, name);
    const referrers = async (query = "") => {
      const answer = await oci("GET", name, `referrers/${subject.digest}${query}`);
      expect([answer.status, answer.headers.get("content-type")]).toEqual([200, OCI_INDEX]);
      const { manifests } = await answer.json<{ manifests: Record<string, unknown>[] }>();
      return { manifests, filters: answer.headers.get("oci-filters-applied") };
    };
    expect((await referrers()).manifests).toEqual([]);
    // It may be told before what it is about.
    const [sbom, plain] = [await about("application/sbom", "s"), await about(undefined, "p")];
    for (const each of [sbom, plain]) {
      expect((await put(each, each.digest, name)).headers.get("oci-subject")).toBe(subject.digest);
    }
    const { manifests } = await referrers();
    expect(manifests).toHaveLength(2);
    expect(manifests).toContainEqual({
      mediaType: OCI_IMAGE,
      digest: sbom.digest,
      size: sbom.bytes.length,
      artifactType: "application/sbom",
      annotations: { note: "s" },
    });
    const filtered = await referrers("?artifactType=application/octet-stream");
    expect(filtered.filters).toBe("artifactType");
    expect(filtered.manifests.map(({ digest }) => digest)).toEqual([plain.digest]);
    await oci("DELETE", name, `manifests/${sbom.digest}`);
    expect((await referrers()).manifests.map(({ digest }) => digest)).toEqual([plain.digest]);
    const heavy = await about("a/b", "x".repeat(65_536));
    expect(await refused(put(heavy, heavy.digest, name))).toEqual([400, "MANIFEST_INVALID"]);
  });
});

describe("origins", () => {
  it("read manifests and ranges of blobs, and get tokens that pull from one repository", async () => {
    const origin = await FakeOrigin.join();
    const image = await anImage();
    await put(image, "o");
    const { layers } = JSON.parse(new TextDecoder().decode(image.bytes)) as { layers: { digest: string }[] };
    const base = `/origin/v1/repositories/${repo}`;
    const manifest = await origin.send("GET", `${base}/manifests/${image.digest}`, undefined, {});
    expect(new Uint8Array(await manifest.arrayBuffer())).toEqual(image.bytes);
    const range = { range: "bytes=0-9" };
    const blob = await origin.send("GET", `${base}/blobs/${layers[0]?.digest}`, undefined, range);
    expect([blob.status, (await blob.arrayBuffer()).byteLength]).toEqual([206, 10]);
    const nothing = await origin.send("GET", `${base}/blobs/${digestOf(someBytes(3))}`, undefined, {});
    expect(nothing.status).toBe(404);
    expect((await call("GET", `${base}/manifests/${image.digest}`)).status).toBe(401);
    const given = await origin.send("POST", `${base}/token`, "");
    const { token } = await given.json<{ token: string }>();
    expect((await call("GET", `/v2/${repo}/manifests/o`, { token })).status).toBe(200);
    expect(await refused(call("POST", `/v2/${repo}/blobs/uploads/`, { token }))).toEqual([404, "NAME_UNKNOWN"]);
    expect(await refused(call("GET", `/v2/${await newRepository()}/tags/list`, { token }))).toEqual([
      404,
      "NAME_UNKNOWN",
    ]);
  });
});

describe("images with Cog's labels", () => {
  const labels = {
    "run.cog.version": "0.17.0",
    "run.cog.config": JSON.stringify({ run: "predict.py:Predictor" }),
    "run.cog.openapi_schema": JSON.stringify({ components: { schemas: { Input: {}, Output: {} } } }),
  };
  async function anImageWith(change: Record<string, string>, more: Record<string, unknown> = {}): Promise<Manifest> {
    const config = { architecture: "amd64", os: "linux", config: { Labels: { ...labels, ...change } }, ...more };
    return anImage({ config: descriptor(await push(new TextEncoder().encode(JSON.stringify(config)))) });
  }

  it("are refused with one reason before anything of them is stored", async () => {
    for (const [image, words] of [
      [await anImageWith({ "run.cog.config": "{" }), "run.cog.config"],
      [await anImageWith({ "run.cog.openapi_schema": "[]" }), "run.cog.openapi_schema"],
      [await anImageWith({}, { architecture: "arm64" }), "linux/amd64"],
    ] as const) {
      const [status, code, message] = await errorOf(await put(image, "model"));
      expect([status, code]).toEqual([422, "MANIFEST_INVALID"]);
      expect(message).toContain(words);
      expect(await refused(oci("GET", repo, "manifests/model"))).toEqual([404, "MANIFEST_UNKNOWN"]);
    }
  });
});
