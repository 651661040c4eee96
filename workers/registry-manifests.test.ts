/** Manifests of the OCI distribution API inside workerd: what is taken, kept, listed and removed. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { repositoryStub } from "../durable-objects/stubs.ts";
import { aVersion, type Person } from "./testing/catalog.ts";
import { anAccount, call, FakeOrigin, theOperator } from "./testing/edge.ts";
import {
  descriptor,
  digestOf,
  errorOf,
  type Manifest,
  manifestOf,
  newRepository,
  OCI_IMAGE,
  OCI_INDEX,
  RegistryClient,
  refused,
  someBytes,
} from "./testing/registry.ts";

let alice: Person;
/** owner/name */
let repo: string;
/** alice's, there */
let registry: RegistryClient;

beforeAll(async () => {
  await theOperator();
  await FakeOrigin.join();
  alice = await anAccount();
  repo = await newRepository(alice);
  registry = new RegistryClient(alice, repo);
});

describe("manifests", () => {
  it("are kept byte for byte, under their tags and their digest", async () => {
    const plain = await registry.anImage();
    const spaced = new TextEncoder().encode(` ${new TextDecoder().decode(plain.bytes)}\n`);
    const manifest = { bytes: spaced, digest: digestOf(spaced) };
    const made = await registry.put(manifest, "v1");
    expect([made.status, made.headers.get("location"), made.headers.get("docker-content-digest")]).toEqual([
      201,
      `/v2/${repo}/manifests/${manifest.digest}`,
      manifest.digest,
    ]);
    for (const reference of ["v1", manifest.digest]) {
      const answer = await registry.oci("GET", repo, `manifests/${reference}`);
      expect(answer.headers.get("content-type")).toBe(OCI_IMAGE);
      expect(answer.headers.get("docker-content-digest")).toBe(manifest.digest);
      expect(new Uint8Array(await answer.arrayBuffer())).toEqual(spaced);
      const head = await registry.oci("HEAD", repo, `manifests/${reference}`);
      expect([head.status, head.headers.get("content-length")]).toEqual([200, String(spaced.length)]);
    }
    expect((await registry.put(manifest, manifest.digest)).status).toBe(201);
    const other = await registry.anImage();
    await registry.put(other, "v1");
    const moved = await registry.oci("HEAD", repo, "manifests/v1");
    expect(moved.headers.get("docker-content-digest")).toBe(other.digest);
    expect((await registry.oci("DELETE", repo, "manifests/v1")).status).toBe(202);
    expect(await refused(registry.oci("GET", repo, "manifests/v1"))).toEqual([404, "MANIFEST_UNKNOWN"]);
    expect((await registry.oci("GET", repo, `manifests/${other.digest}`)).status).toBe(200);
    expect((await registry.oci("DELETE", repo, `manifests/${other.digest}`)).status).toBe(202);
    expect(await refused(registry.oci("GET", repo, `manifests/${other.digest}`))).toEqual([404, "MANIFEST_UNKNOWN"]);
    for (const nothing of [other.digest, "v1", ".wrong", "sha256:x"]) {
      expect(await refused(registry.oci("DELETE", repo, `manifests/${nothing}`))).toEqual([404, "MANIFEST_UNKNOWN"]);
    }
  });

  it("are taken only with everything that they name, and hold it", async () => {
    const missing = digestOf(someBytes(5));
    const config = await registry.push(someBytes(5));
    const layers = [descriptor(missing)];
    const lacking = manifestOf({ schemaVersion: 2, mediaType: OCI_IMAGE, config: descriptor(config), layers });
    const [status, code, message] = await errorOf(await registry.put(lacking, "x"));
    expect([status, code]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    expect(message).toContain(missing);
    // Layers that lie elsewhere need not be here.
    const foreign = descriptor(missing, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    const image = await registry.anImage({ layers: [foreign] });
    expect((await registry.put(image, "x")).status).toBe(201);
    const { config: held } = JSON.parse(new TextDecoder().decode(image.bytes));
    expect(await refused(registry.oci("DELETE", repo, `blobs/${held.digest}`))).toEqual([405, "UNSUPPORTED"]);
    const index = (digest: string) =>
      manifestOf({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [descriptor(digest, OCI_IMAGE)] });
    expect(await refused(registry.put(index(missing), "i", repo, OCI_INDEX))).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    expect((await registry.put(index(image.digest), "i", repo, OCI_INDEX)).status).toBe(201);
    await registry.oci("DELETE", repo, `manifests/${image.digest}`);
    expect((await registry.oci("DELETE", repo, `blobs/${held.digest}`)).status).toBe(202);
  });

  it("are refused with a reason", async () => {
    const good = JSON.parse(new TextDecoder().decode((await registry.anImage()).bytes)) as Record<string, unknown>;
    const invalid = async (value: unknown, type = OCI_IMAGE) => {
      const bytes = typeof value === "string" ? new TextEncoder().encode(value) : manifestOf(value).bytes;
      return errorOf(await registry.put({ bytes, digest: "" }, "bad", repo, type));
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
    expect(await refused(registry.put({ bytes, digest: "" }, "big"))).toEqual([413, "SIZE_INVALID"]);
    const { bytes: fine } = manifestOf(good);
    expect(await refused(registry.put({ bytes: fine, digest: "" }, digestOf(someBytes(3))))).toEqual([
      400,
      "DIGEST_INVALID",
    ]);
    expect(await refused(registry.put({ bytes: fine, digest: "" }, ".tag"))).toEqual([400, "TAG_INVALID"]);
    expect(await refused(registry.put({ bytes: fine, digest: "" }, "t".repeat(129)))).toEqual([400, "TAG_INVALID"]);
    // As large as allowed, and larger than a row may be.
    const large = manifestOf({ ...good, x: "x".repeat(4_000_000) });
    expect((await registry.put(large, "large")).status).toBe(201);
    expect((await registry.oci("GET", repo, "manifests/large")).headers.get("content-length")).toBe(
      String(large.bytes.length),
    );
  });

  it("stay as long as a version is made of them", async () => {
    const name = await newRepository(alice);
    const image = await registry.anImage({}, name);
    await registry.put(image, "v1", name);
    const version = await aVersion(`/v1/models/${name}`);
    const ref = JSON.stringify({ kind: "image", repository: name, manifest: image.digest });
    await env.DB.prepare("UPDATE versions SET package = ? WHERE id = ?").bind(ref, version).run();
    const [status, code, message] = await errorOf(await registry.oci("DELETE", name, `manifests/${image.digest}`));
    expect([status, code]).toEqual([403, "DENIED"]);
    expect(message).toContain(version);
    await env.DB.prepare("DELETE FROM versions WHERE id = ?").bind(version).run();
    expect((await registry.oci("DELETE", name, `manifests/${image.digest}`)).status).toBe(202);
  });

  it("go with their model", async () => {
    const name = await newRepository(alice);
    const image = await registry.anImage({}, name);
    await registry.put(image, "v1", name);
    const place = await registry.begin(name);
    await registry.oci("PATCH", name, place, { bytes: someBytes(9) });
    expect((await call("DELETE", `/v1/models/${name}`, { token: alice.token })).status).toBe(204);
    expect(await refused(registry.oci("GET", name, "tags/list"))).toEqual([404, "NAME_UNKNOWN"]);
    const repository = repositoryStub(env, name);
    expect(await repository.manifest("v1")).toBeNull();
    expect(await repository.tags(10, null)).toEqual({ tags: [], more: false });
    expect(await repository.uploadSize(place.split("/").at(-1) ?? "")).toBeNull();
  });
});

describe("lists", () => {
  it("page through the tags in order", async () => {
    const name = await newRepository(alice);
    expect(await (await registry.oci("GET", name, "tags/list")).json()).toEqual({ name, tags: [] });
    const image = await registry.anImage({}, name);
    for (const tag of ["b", "a", "_x", "Z", "c-1"]) await registry.put(image, tag, name);
    const page = async (query: string) => {
      const answer = await registry.oci("GET", name, `tags/list${query}`);
      return { ...(await answer.json<{ tags: string[] }>()), link: answer.headers.get("link") };
    };
    const all = ["Z", "_x", "a", "b", "c-1"];
    expect(await page("")).toEqual({ name, tags: all, link: null });
    const first = await page("?n=2");
    expect(first).toEqual({ name, tags: ["Z", "_x"], link: `</v2/${name}/tags/list?n=2&last=_x>; rel="next"` });
    expect((await page("?n=2&last=_x")).tags).toEqual(["a", "b"]);
    expect(await page("?n=9&last=b")).toEqual({ name, tags: ["c-1"], link: null });
    expect(await page("?n=0")).toEqual({ name, tags: [], link: null });
    expect(await refused(registry.oci("GET", name, "tags/list?n=x"))).toEqual([400, "PAGINATION_NUMBER_INVALID"]);
    expect((await registry.put(image, `${image.digest}?tag=p&tag=q`, name)).headers.get("oci-tag")).toBe("p, q");
    expect((await page("")).tags).toHaveLength(7);
  });

  it("show what is about a manifest, by kind", async () => {
    const name = await newRepository(alice);
    const subject = await registry.anImage({}, name);
    const about = (artifactType: string | undefined, note: string) =>
      registry.anImage({ artifactType, subject: descriptor(subject.digest, OCI_IMAGE), annotations: { note } }, name);
    const referrers = async (query = "") => {
      const answer = await registry.oci("GET", name, `referrers/${subject.digest}${query}`);
      expect([answer.status, answer.headers.get("content-type")]).toEqual([200, OCI_INDEX]);
      const { manifests } = await answer.json<{ manifests: Record<string, unknown>[] }>();
      return { manifests, filters: answer.headers.get("oci-filters-applied") };
    };
    expect((await referrers()).manifests).toEqual([]);
    // It may be told before what it is about.
    const [sbom, plain] = [await about("application/sbom", "s"), await about(undefined, "p")];
    for (const each of [sbom, plain]) {
      expect((await registry.put(each, each.digest, name)).headers.get("oci-subject")).toBe(subject.digest);
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
    await registry.oci("DELETE", name, `manifests/${sbom.digest}`);
    expect((await referrers()).manifests.map(({ digest }) => digest)).toEqual([plain.digest]);
    const heavy = await about("a/b", "x".repeat(65_536));
    expect(await refused(registry.put(heavy, heavy.digest, name))).toEqual([400, "MANIFEST_INVALID"]);
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
    return registry.anImage({
      config: descriptor(await registry.push(new TextEncoder().encode(JSON.stringify(config)))),
    });
  }

  it("are refused with one reason before anything of them is stored", async () => {
    for (const [image, words] of [
      [await anImageWith({ "run.cog.config": "{" }), "run.cog.config"],
      [await anImageWith({ "run.cog.openapi_schema": "[]" }), "run.cog.openapi_schema"],
      [await anImageWith({}, { architecture: "arm64" }), "linux/amd64"],
    ] as const) {
      const [status, code, message] = await errorOf(await registry.put(image, "model"));
      expect([status, code]).toEqual([422, "MANIFEST_INVALID"]);
      expect(message).toContain(words);
      expect(await refused(registry.oci("GET", repo, "manifests/model"))).toEqual([404, "MANIFEST_UNKNOWN"]);
    }
  });
});
