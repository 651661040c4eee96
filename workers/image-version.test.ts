/** Images that `docker push` brings, with Cog's labels: versions without a build. */
import { beforeAll, describe, expect, it } from "vitest";
import { aModel, type Json, jsonOf, type Person, status } from "./testing/catalog.ts";
import { anAccount, call, FakeOrigin, theOperator } from "./testing/edge.ts";
import { digestOf, OCI_IMAGE, OCI_INDEX } from "./testing/registry.ts";

let origin: FakeOrigin;
let alice: Person;

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join({ runs: { packages: ["source", "image"], untrusted: true } });
  alice = await anAccount();
});

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const descriptor = (bytes: Uint8Array, mediaType: string) => ({
  mediaType,
  digest: digestOf(bytes),
  size: bytes.length,
});

/** What a registry's client sends, in its order. */
class Docker {
  readonly repository: string;

  constructor(path: string) {
    this.repository = path.replace("/v1/models/", "");
  }

  async token(): Promise<string> {
    const authorization = `Basic ${btoa(`x:${alice.token}`)}`;
    const scope = `repository:${this.repository}:pull,push`;
    const answer = await call("GET", `/v2/token?scope=${scope}`, { headers: { authorization } });
    return (await answer.json<{ token: string }>()).token;
  }

  async #send(method: string, path: string, bytes: Uint8Array, type?: string): Promise<Response> {
    const headers = type === undefined ? {} : { headers: { "content-type": type } };
    return call(method, `/v2/${this.repository}/${path}`, { token: await this.token(), bytes, ...headers });
  }

  async blob(bytes: Uint8Array): Promise<void> {
    const answer = await this.#send("POST", `blobs/uploads/?digest=${digestOf(bytes)}`, bytes);
    if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  }

  async manifest(bytes: Uint8Array, reference: string, type = OCI_IMAGE): Promise<Response> {
    return this.#send("PUT", `manifests/${reference}`, bytes, type);
  }

  /** The manifest of an image whose blobs were pushed. */
  async image(labels: Record<string, string>, machine: Json = {}): Promise<Uint8Array> {
    const config = encode({ architecture: "amd64", os: "linux", ...machine, config: { Labels: labels } });
    const layer = encode(crypto.randomUUID());
    await this.blob(config);
    await this.blob(layer);
    return encode({
      schemaVersion: 2,
      mediaType: OCI_IMAGE,
      config: descriptor(config, "application/vnd.oci.image.config.v1+json"),
      layers: [descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    });
  }
}

function labelsOf(inputs: Json = {}, config: Json = {}, prefix = "run.cog."): Record<string, string> {
  const Input = { type: "object", properties: { text: { type: "string" }, ...inputs } };
  return {
    [`${prefix}version`]: "0.17.0",
    [`${prefix}config`]: JSON.stringify({ run: "predict.py:Predictor", ...config }),
    [`${prefix}openapi_schema`]: JSON.stringify({ components: { schemas: { Input, Output: { type: "string" } } } }),
  };
}

async function messageOf(answer: Response): Promise<string> {
  const { errors } = await answer.json<{ errors: { message: string }[] }>();
  return `${answer.status} ${errors[0]?.message}`;
}

describe("an image", () => {
  it.each(["run.cog.", "org.cogmodel."])(
    "with labels %s… is a version named by its digest, and runs",
    async (prefix) => {
      const path = await aModel(alice);
      const docker = new Docker(path);
      const image = await docker.image({
        ...labelsOf({}, { concurrency: { max: 4 } }, prefix),
        "run.cogway.config": JSON.stringify({ memory_mb: 100, idempotent: true }),
      });
      expect((await docker.manifest(image, "v1")).status).toBe(201);
      const id = digestOf(image).replace("sha256:", "");
      expect(await jsonOf("GET", path, alice)).toMatchObject({ latest_version: { id, cog_version: "0.17.0" } });
      const packaged = await origin.send("GET", `/origin/v1/packages/${docker.repository}/${id}`);
      expect(await packaged.json()).toMatchObject({
        package: { kind: "image", repository: docker.repository, manifest: digestOf(image) },
        version: {
          slots: 4,
          memory_bytes: 104_857_600,
          hardware: "cpu",
          gpus: 0,
          idempotent: true,
          prepared: { ref: null },
        },
      });
      const made = await jsonOf<{ id: string }>("POST", `${path}/predictions`, alice, { input: { text: "x" } });
      await origin.attemptOf(made.id);
      // The same image again: the same version.
      expect((await docker.manifest(image, "v2")).status).toBe(201);
      expect((await jsonOf<{ results: Json[] }>("GET", `${path}/versions`, alice)).results).toHaveLength(1);
    },
  );

  it("for GPUs asks for one, whichever there is, or for what its label names", async () => {
    const docker = new Docker(await aModel(alice));
    for (const [cogway, expected] of [
      [{}, { hardware: "gpu", gpus: 1 }],
      [{ hardware: "gpu-h100-8x" }, { hardware: "gpu-h100-8x", gpus: 8 }],
    ]) {
      const image = await docker.image({
        ...labelsOf({}, { build: { gpu: true } }),
        "run.cogway.config": JSON.stringify(cogway),
      });
      expect((await docker.manifest(image, "v1")).status).toBe(201);
      const id = digestOf(image).replace("sha256:", "");
      const packaged = await origin.send("GET", `/origin/v1/packages/${docker.repository}/${id}`);
      expect(await packaged.json()).toMatchObject({ version: expected });
    }
  });

  it("in an index counts by its member for linux/amd64; others are kept", async () => {
    const path = await aModel(alice);
    const docker = new Docker(path);
    const [amd64, arm64] = [await docker.image(labelsOf()), await docker.image(labelsOf(), { architecture: "arm64" })];
    for (const member of [amd64, arm64]) expect((await docker.manifest(member, digestOf(member))).status).toBe(201);
    const manifests = [descriptor(amd64, OCI_IMAGE), descriptor(arm64, OCI_IMAGE)];
    const index = encode({ schemaVersion: 2, mediaType: OCI_INDEX, manifests });
    expect((await docker.manifest(index, "latest", OCI_INDEX)).status).toBe(201);
    const { results } = await jsonOf<{ results: Json[] }>("GET", `${path}/versions`, alice);
    expect(results.map(({ id }) => id)).toEqual([digestOf(amd64).replace("sha256:", "")]);
    const alone = await docker.image(labelsOf(), { architecture: "arm64" });
    expect(await messageOf(await docker.manifest(alone, "arm"))).toContain("linux/amd64");
  });

  it("without Cog's labels is kept, and is no version", async () => {
    const path = await aModel(alice);
    const docker = new Docker(path);
    expect((await docker.manifest(await docker.image({ maintainer: "x" }), "v1")).status).toBe(201);
    expect(await jsonOf("GET", path, alice)).toMatchObject({ latest_version: null });
  });

  it("that breaks callers of a stable model moves no tag, and says how it may", async () => {
    const path = await aModel(alice);
    const docker = new Docker(path);
    const first = await docker.image(labelsOf({ count: { type: "integer" } }));
    expect((await docker.manifest(first, "latest")).status).toBe(201);
    await jsonOf("PATCH", path, alice, { stable: true });
    const breaking = await docker.image(labelsOf());
    const message = await messageOf(await docker.manifest(breaking, "latest"));
    expect(message).toMatch(/^409 .*input\.count was removed.*stable false/);
    const tagged = await call("HEAD", `/v2/${docker.repository}/manifests/latest`, { token: await docker.token() });
    expect(tagged.headers.get("docker-content-digest")).toBe(digestOf(first));
    expect(await status("GET", `${path}/versions/${digestOf(breaking).replace("sha256:", "")}`, alice)).toBe(404);
    await jsonOf("PATCH", path, alice, { stable: false });
    expect((await docker.manifest(breaking, "latest")).status).toBe(201);
  });
});
