/** Blobs of the OCI distribution API inside workerd: uploads of every kind, here and through a relay, and reads. */
import { createExecutionContext, runInDurableObject, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { repositoryStub } from "../durable-objects/stubs.ts";
import { hashToken } from "../schema/tokens.ts";
import { app } from "./app.ts";
import type { Person } from "./testing/catalog.ts";
import { anAccount, aToken, call, FakeOrigin, theOperator } from "./testing/edge.ts";
import { contentOf, digestOf, newRepository, RegistryClient, refused, someBytes, ticket } from "./testing/registry.ts";

const PART = 8_388_608;

let alice: Person;
let bob: Person;
/** owner/name */
let repo: string;
/** alice's, there */
let registry: RegistryClient;

beforeAll(async () => {
  await theOperator();
  await FakeOrigin.join();
  alice = await anAccount();
  bob = await anAccount();
  repo = await newRepository(alice);
  registry = new RegistryClient(alice, repo);
});

function stream(...chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    type: "bytes",
    start(controller) {
      for (const chunk of chunks) if (chunk.length > 0) controller.enqueue(chunk.slice());
      controller.close();
    },
  });
}

describe("uploads of blobs", () => {
  it.each([0, 1, 1_000, PART, PART + 1, 2 * PART - 1])(
    "guarantee the bytes whichever way %i of them come",
    async (size) => {
      const whole = someBytes(size);
      expect(await registry.pulled(await registry.push(whole))).toEqual(contentOf(whole));

      const putAlone = someBytes(size);
      const digest = digestOf(putAlone);
      const place = await registry.begin();
      const made = await registry.oci("PUT", repo, `${place}?digest=${digest}`, { bytes: putAlone });
      expect([made.status, made.headers.get("location")]).toEqual([201, `/v2/${repo}/blobs/${digest}`]);
      expect(await registry.pulled(digest)).toEqual(contentOf(putAlone));

      const streamed = someBytes(size);
      const at = await registry.begin();
      const half = size >> 1;
      const bytes = stream(streamed.subarray(0, half), streamed.subarray(half));
      const patched = await registry.oci("PATCH", repo, at, { bytes });
      expect([patched.status, patched.headers.get("range")]).toEqual([202, `0-${Math.max(size - 1, 0)}`]);
      const ended = await registry.oci("PUT", repo, `${patched.headers.get("location")}?digest=${digestOf(streamed)}`);
      expect(ended.status).toBe(201);
      expect(await registry.pulled(digestOf(streamed))).toEqual(contentOf(streamed));
    },
  );

  it("guarantee the bytes of chunks of any size, the last one with the end", async () => {
    const sizes = [3, PART - 4, 5, PART + 2, 1, 2 * PART, 17];
    const whole = someBytes(sizes.reduce((sum, size) => sum + size, 0));
    for (const algorithm of ["sha256", "sha512"]) {
      let place = await registry.begin();
      let first = 0;
      for (const [i, size] of sizes.entries()) {
        const bytes = whole.subarray(first, first + size);
        const headers = { "content-range": `${first}-${first + size - 1}`, "content-length": String(size) };
        first += size;
        if (i === sizes.length - 1) {
          const answer = await registry.oci("PUT", repo, `${place}?digest=${digestOf(whole, algorithm)}`, {
            bytes,
            headers,
          });
          expect(answer.status).toBe(201);
          break;
        }
        const answer = await registry.oci("PATCH", repo, place, { bytes, headers });
        expect([answer.status, answer.headers.get("range")]).toEqual([202, `0-${first - 1}`]);
        place = answer.headers.get("location") ?? "";
        const status = await registry.oci("GET", repo, place);
        expect([status.status, status.headers.get("range")]).toEqual([204, `0-${first - 1}`]);
      }
      expect(await registry.pulled(digestOf(whole, algorithm))).toEqual(contentOf(whole));
    }
  });

  it("refuse chunks out of order, and go on where they were", async () => {
    const whole = someBytes(10);
    const place = await registry.begin();
    const chunk = (first: number, last: number, header = `${first}-${last}`) =>
      registry.oci("PATCH", repo, place, { bytes: whole.slice(first, last + 1), headers: { "content-range": header } });
    const early = await chunk(5, 9);
    expect([early.headers.get("range"), early.headers.get("location")]).toEqual(["0-0", place]);
    expect(await refused(Promise.resolve(early))).toEqual([416, "BLOB_UPLOAD_INVALID"]);
    expect((await chunk(0, 4)).status).toBe(202);
    expect(await refused(chunk(0, 4))).toEqual([416, "BLOB_UPLOAD_INVALID"]);
    expect(await refused(chunk(5, 9, "9-5"))).toEqual([400, "BLOB_UPLOAD_INVALID"]);
    const headers = { "content-range": "5-9", "content-length": "4" };
    expect(await refused(registry.oci("PATCH", repo, place, { bytes: whole.slice(0, 4), headers }))).toEqual([
      400,
      "SIZE_INVALID",
    ]);
    expect((await chunk(5, 9)).status).toBe(202);
    expect((await registry.oci("PUT", repo, `${place}?digest=${digestOf(whole)}`)).status).toBe(201);
  });

  it.each([9, 2 * PART])("refuse %i bytes of another digest, and keep none of them", async (size) => {
    const bytes = someBytes(size);
    const wrong = digestOf(someBytes(1));
    const place = await registry.begin();
    expect(await refused(registry.oci("POST", repo, `blobs/uploads/?digest=${wrong}`, { bytes }))).toEqual([
      400,
      "DIGEST_INVALID",
    ]);
    expect(await refused(registry.oci("PUT", repo, `${place}?digest=${wrong}`, { bytes }))).toEqual([
      400,
      "DIGEST_INVALID",
    ]);
    for (const digest of [wrong, digestOf(bytes)]) {
      expect((await registry.oci("HEAD", repo, `blobs/${digest}`)).status).toBe(404);
    }
    expect(await refused(registry.oci("GET", repo, place))).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
    const bad = await registry.begin();
    for (const digest of ["sha256:abc", "md5:00", `sha256:${"A".repeat(64)}`, ""]) {
      expect(await refused(registry.oci("PUT", repo, `${bad}?digest=${digest}`, { bytes }))).toEqual([
        400,
        "DIGEST_INVALID",
      ]);
    }
  });

  it("end when they are cancelled, and say the same when the end is asked for again", async () => {
    const place = await registry.begin();
    await registry.oci("PATCH", repo, place, { bytes: someBytes(9) });
    expect((await registry.oci("DELETE", repo, place)).status).toBe(204);
    for (const method of ["GET", "DELETE", "PATCH"]) {
      expect(await refused(registry.oci(method, repo, place))).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
    }
    const bytes = someBytes(9);
    const again = await registry.begin();
    for (let i = 0; i < 2; i++) {
      expect((await registry.oci("PUT", repo, `${again}?digest=${digestOf(bytes)}`, { bytes })).status).toBe(201);
    }
  });

  it("belong to one request at a time: the later one counts", async () => {
    const [slow, quick] = [someBytes(9), someBytes(9)];
    const place = await registry.begin();
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
    const first = registry.oci("PATCH", repo, place, { bytes: body });
    await expect.poll(() => isLeased(place), { timeout: 5_000 }).toBe(true);
    expect((await registry.oci("PATCH", repo, place, { bytes: quick })).status).toBe(202);
    release();
    expect(await refused(first)).toEqual([409, "BLOB_UPLOAD_INVALID"]);
    expect((await registry.oci("PUT", repo, `${place}?digest=${digestOf(quick)}`)).status).toBe(201);
    expect(await registry.pulled(digestOf(quick))).toEqual(contentOf(quick));
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
      expect(await registry.pulled(digest)).toEqual(contentOf(bytes));
    });

    it("stay here for who comes with a token of the registry", async () => {
      const { path } = await beginRelayed();
      expect((await registry.oci("GET", repo, path)).headers.get("location")).toBe(path);
    });

    it("refuse a token that is forged, over, of another upload or another repository, or for anything else", async () => {
      const { path, capability } = await beginRelayed();
      const other = await beginRelayed();
      const elsewhere = path.replace(repo, await newRepository(alice));
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
    const digest = await registry.push(bytes);
    const head = await registry.oci("HEAD", repo, `blobs/${digest}`);
    expect([head.status, head.headers.get("content-length"), head.headers.get("docker-content-digest")]).toEqual([
      200,
      "1000",
      digest,
    ]);
    const part = await registry.oci("GET", repo, `blobs/${digest}`, { headers: { range: "bytes=10-19" } });
    expect([part.status, part.headers.get("content-range")]).toEqual([206, "bytes 10-19/1000"]);
    expect(new Uint8Array(await part.arrayBuffer())).toEqual(bytes.slice(10, 20));
    expect(
      (await refused(registry.oci("GET", repo, `blobs/${digest}`, { headers: { range: "bytes=1000-" } })))[0],
    ).toBe(416);
    expect(await refused(registry.oci("GET", repo, "blobs/sha256:abc"))).toEqual([400, "DIGEST_INVALID"]);
    expect((await registry.oci("DELETE", repo, `blobs/${digest}`)).status).toBe(202);
    expect(await refused(registry.oci("GET", repo, `blobs/${digest}`))).toEqual([404, "BLOB_UNKNOWN"]);
    expect(await refused(registry.oci("DELETE", repo, `blobs/${digest}`))).toEqual([404, "BLOB_UNKNOWN"]);
  });

  it("are read in ranges across their parts", async () => {
    const bytes = someBytes(2 * PART + 100);
    const digest = await registry.push(bytes);
    for (const [first, last] of [
      [0, PART - 1],
      [PART - 1, PART],
      [PART, 2 * PART - 1],
      [5, 2 * PART + 7],
      [2 * PART, 2 * PART + 99],
      [PART + 3, 2 * PART + 99],
    ] as const) {
      const answer = await registry.oci("GET", repo, `blobs/${digest}`, {
        headers: { range: `bytes=${first}-${last}` },
      });
      expect(answer.headers.get("content-range")).toBe(`bytes ${first}-${last}/${bytes.length}`);
      const read = contentOf(new Uint8Array(await answer.arrayBuffer()));
      expect(read, `${first}-${last}`).toEqual(contentOf(bytes.subarray(first, last + 1)));
    }
  });

  it("are of their repository alone, though the bytes are stored once", async () => {
    const bytes = someBytes(500);
    const digest = await registry.push(bytes);
    const theirs = await newRepository(bob);
    for (const method of ["GET", "HEAD"]) {
      expect((await registry.oci(method, theirs, `blobs/${digest}`, { as: bob })).status).toBe(404);
    }
    await registry.push(bytes, theirs, { as: bob });
    const [mine, same] = await Promise.all([repo, theirs].map((name) => repositoryStub(env, name).blob(digest)));
    expect(same).toEqual(mine);
    await registry.oci("DELETE", repo, `blobs/${digest}`);
    const left = await registry.oci("GET", theirs, `blobs/${digest}`, { as: bob });
    expect(new Uint8Array(await left.arrayBuffer())).toEqual(bytes);
  });

  it("are mounted from where the caller may pull, and otherwise uploaded", async () => {
    const digest = await registry.push(someBytes(500));
    const target = await newRepository(alice);
    const theirs = await newRepository(bob);
    const mount = (into: string, from: string | null, as = alice, scopes = [`repository:${from}:pull`]) =>
      registry.oci("POST", into, `blobs/uploads/?mount=${digest}${from === null ? "" : `&from=${from}`}`, {
        as,
        scopes,
      });
    const of = async (answer: Promise<Response>) => (await answer).status;
    // Not theirs to read, not there, nowhere, no repository.
    expect(await of(mount(theirs, repo, bob))).toBe(202);
    expect(await of(mount(target, theirs))).toBe(202);
    expect(await of(mount(target, null))).toBe(202);
    expect(await of(mount(target, "a/b/c"))).toBe(202);
    expect((await registry.oci("HEAD", theirs, `blobs/${digest}`, { as: bob })).status).toBe(404);
    // A token for the target alone is to be exchanged for one that may read as well.
    const narrow = await mount(target, repo, alice, []);
    expect(narrow.headers.get("www-authenticate")).toContain(`repository:${repo}:pull`);
    expect(narrow.status).toBe(401);
    const mounted = await mount(target, repo);
    expect([mounted.status, mounted.headers.get("location")]).toEqual([201, `/v2/${target}/blobs/${digest}`]);
    await registry.oci("DELETE", repo, `blobs/${digest}`);
    expect((await registry.pulled(digest, target)).size).toBe(500);
    expect(await of(mount(target, null))).toBe(201);
  });
});
