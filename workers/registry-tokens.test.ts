/** The OCI distribution API inside workerd: who may do what in a repository, callers and origins. The conformance program is in e2e/registry.e2e.ts. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { aModel, type Person } from "./testing/catalog.ts";
import { anAccount, aToken, call, FakeOrigin, theOperator } from "./testing/edge.ts";
import {
  basic,
  digestOf,
  errorOf,
  newRepository,
  RegistryClient,
  refused,
  someBytes,
  ticket,
} from "./testing/registry.ts";

let operator: string;
let alice: Person;
let bob: Person;
/** owner/name */
let repo: string;
/** alice's, there */
let registry: RegistryClient;

beforeAll(async () => {
  operator = await theOperator();
  await FakeOrigin.join();
  alice = await anAccount();
  bob = await anAccount();
  repo = await newRepository(alice);
  registry = new RegistryClient(alice, repo);
});

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
    const other = await newRepository(alice);
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
    const list = (name: string, as: Person) => registry.oci("GET", name, "tags/list", { as });
    expect(await refused(list(repo, bob))).toEqual([404, "NAME_UNKNOWN"]);
    expect(await refused(list(open, bob))).toEqual([403, "DENIED"]);
    const [status, code, message] = await errorOf(
      await registry.oci("POST", `${alice.username}/nothing`, "blobs/uploads/"),
    );
    expect([status, code]).toEqual([404, "NAME_UNKNOWN"]);
    expect(message).toContain("cogway push");
    const reader = { ...alice, token: await aToken(alice.id, ["models:read"]) };
    const denied = await errorOf(await registry.oci("POST", repo, "blobs/uploads/", { as: reader }));
    expect(denied).toEqual([403, "DENIED", "This token lacks the scope models:write."]);
    const cogway = { id: "", username: "cogway", token: operator };
    expect((await list(repo, cogway)).status).toBe(200);
    expect((await refused(registry.oci("POST", repo, "blobs/uploads/", { as: cogway })))[0]).toBeGreaterThanOrEqual(
      403,
    );
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

describe("origins", () => {
  it("read manifests and ranges of blobs, and get tokens that pull from one repository", async () => {
    const origin = await FakeOrigin.join();
    const image = await registry.anImage();
    await registry.put(image, "o");
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
    expect(await refused(call("GET", `/v2/${await newRepository(alice)}/tags/list`, { token }))).toEqual([
      404,
      "NAME_UNKNOWN",
    ]);
  });
});
