import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { gzipSync } from "node:zlib";
import Docker from "dockerode";
import { pack } from "tar-stream";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type PreparedVersion, VersionStore } from "../prepared-version.ts";
import type { LaunchResult } from "./builder.ts";
import { DockerBuilder } from "./docker-builder.ts";
import { tagOf } from "./docker-builder-image.ts";
import { RegistryRelay } from "./image-pull-relay.ts";
import { writeCogLabels } from "./labels.ts";

const docker = new Docker({ socketPath: (process.env["COGWAY_TEST_DOCKER_HOST"] ?? "").replace(/^unix:\/\//, "") });
const SCHEMA = { openapi: "3.0.2", paths: { "/predictions": { post: {} } } };
const REPOSITORY = "someone/model";

let root: string;
let registry: TestRegistry;
let builder: DockerBuilder;
const pulled: string[] = [];

/** As much of a registry as a pull needs; it gives nothing without the token, and fails where it is told to. */
class TestRegistry {
  readonly token = randomBytes(12).toString("hex");
  readonly contents = new Map<string, { type: string; bytes: Buffer }>();
  tokensGiven = 0;
  /** answers that are still to fail */
  failuresLeft = 0;
  /** layers are never finished */
  isSlow = false;
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      const digest = (request.url ?? "").split("/").at(-1) ?? "";
      if (request.headers.authorization !== `Bearer ${this.token}`) {
        response
          .writeHead(401, { "www-authenticate": `Bearer realm="http://${this.host}/token",service="test"` })
          .end();
        return;
      }
      const content = this.contents.get(digest);
      if (request.url === "/v2/") response.writeHead(200).end("{}");
      else if (content === undefined)
        response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}');
      else if (this.failuresLeft > 0) {
        this.failuresLeft -= 1;
        response.writeHead(503).end();
      } else if (content.type === "layer" && this.isSlow) {
        response.writeHead(200, { "content-length": String(content.bytes.length) });
        response.write(content.bytes.subarray(0, 100));
      } else {
        const type = content.type === "layer" ? "application/octet-stream" : content.type;
        response.writeHead(200, {
          "content-type": type,
          "content-length": String(content.bytes.length),
          "docker-content-digest": digest,
        });
        response.end(request.method === "HEAD" ? undefined : content.bytes);
      }
    });
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
  }

  get host(): string {
    const address = this.#server.address();
    return `127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  put(type: string, bytes: Buffer): string {
    const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
    this.contents.set(digest, { type, bytes });
    return digest;
  }
}

/** An image of one layer; the digest of its manifest. */
async function anImage(labels: Record<string, string>): Promise<string> {
  const tar = pack();
  tar.entry({ name: "src/.cog/openapi_schema.json" }, JSON.stringify(SCHEMA));
  tar.entry({ name: "unlike-any-other" }, randomBytes(2_000_000));
  tar.finalize();
  const layer = await buffer(tar);
  const zipped = gzipSync(layer);
  const diff = `sha256:${createHash("sha256").update(layer).digest("hex")}`;
  const config = Buffer.from(
    JSON.stringify({
      architecture: "amd64",
      os: "linux",
      config: { Labels: labels },
      rootfs: { type: "layers", diff_ids: [diff] },
    }),
  );
  const type = "application/vnd.docker.distribution.manifest.v2+json";
  const configType = "application/vnd.docker.container.image.v1+json";
  const manifest = {
    schemaVersion: 2,
    mediaType: type,
    config: { mediaType: configType, size: config.length, digest: registry.put(configType, config) },
    layers: [
      {
        mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip",
        size: zipped.length,
        digest: registry.put("layer", zipped),
      },
    ],
  };
  return registry.put(type, Buffer.from(JSON.stringify(manifest)));
}

const MODEL = writeCogLabels({
  cog_version: "0.23.1",
  config: { predict: "predict.py:Predictor" },
  openapi_schema: SCHEMA,
  pip_freeze: "",
});

function aVersion(manifest: string): PreparedVersion {
  const id = manifest.slice("sha256:".length);
  pulled.push(id);
  return {
    id,
    name: "model",
    environment: { python_version: null, requirements: "", run: [] },
    ref: null,
    train_ref: null,
    slots: 1,
    memory_bytes: 512 * 1024 ** 2,
    train_memory_bytes: null,
    idempotent: false,
    token_metric: null,
    output_is_file_list: false,
    env: {},
    hardware: "cpu",
    gpus: 0,
    egress: false,
    weights: [],
    package: { kind: "image", repository: REPOSITORY, manifest },
    schema: SCHEMA,
  };
}

function launch(
  version: PreparedVersion,
  options: { signal?: AbortSignal; lines?: string[] } = {},
): Promise<LaunchResult> {
  return builder.launch(version, {
    instance_id: "pull-instance",
    mode: "predict",
    signal: options.signal ?? AbortSignal.timeout(60_000),
    onProgress: (line) => options.lines?.push(line),
  });
}

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "cogway-pull-"));
  registry = new TestRegistry();
  await registry.listen();
  builder = new DockerBuilder({
    docker,
    originId: "pull-test",
    versions: new VersionStore(join(root, "versions")),
    edge: {
      registryToken: async (repository) => {
        registry.tokensGiven += 1;
        if (repository !== REPOSITORY) return { kind: "refused", status: 404, detail: "There is no such repository." };
        return { kind: "ok", value: { token: registry.token, expires_in: 300 } };
      },
    },
    registryHost: () => new RegistryRelay(`http://${registry.host}`).host(),
    baseOf: (image) => image,
    env: {},
    buildSecrets: new Map(),
    runtime: null,
    stateDir: root,
  });
});

afterAll(async () => {
  for (const id of pulled) await builder.images.remove(id);
  registry.close();
  rmSync(root, { recursive: true, force: true });
});

describe("a launch of a pushed image", () => {
  it("pulls it by digest with a token of the edge, tries again where it was away, and mounts a schema that opens events", async () => {
    const version = aVersion(await anImage(MODEL));
    registry.failuresLeft = 2;
    const lines: string[] = [];
    const [result, other] = await Promise.all([launch(version, { lines }), launch(version)]);
    if (result.kind === "failed") throw new Error(result.detail);
    expect(other.kind).toBe("ready");
    expect(result.launch).toMatchObject({ kind: "image", image: tagOf(version.id) });
    const [mount] = result.launch.kind === "image" ? result.launch.mounts : [];
    expect(mount?.target).toBe("/src/.cog/openapi_schema.json");
    expect(JSON.parse(readFileSync(mount?.source ?? "", "utf8")).paths["/predictions"].post).toEqual({
      "x-cog-streaming": true,
    });
    expect(lines.join("\n")).toMatch(/pulling the image: \d of 1 layers/);

    const before = registry.tokensGiven;
    expect((await launch(version)).kind).toBe("ready");
    expect(registry.tokensGiven).toBe(before);
  });

  it("refuses an image without Cog's labels, and keeps nothing of it", async () => {
    const version = aVersion(await anImage({ maintainer: "someone" }));
    expect(await launch(version)).toEqual({
      kind: "failed",
      detail: expect.stringContaining("no label run.cog.config"),
    });
    expect(await builder.images.get(version.id)).toBeNull();
    const left = await docker.listImages({ filters: { reference: [`*/${REPOSITORY}`] } });
    expect(left.flatMap(({ RepoDigests }) => RepoDigests ?? []).some((name) => name.endsWith(version.id))).toBe(false);
  });

  it("says so when the registry has not got it, or the edge gives no token", async () => {
    const missing = aVersion(`sha256:${"0".repeat(63)}1`);
    expect(await launch(missing)).toEqual({
      kind: "failed",
      detail: expect.stringMatching(/cannot be pulled from .*manifest unknown/),
    });
    const version = {
      ...missing,
      package: { kind: "image" as const, repository: "other/model", manifest: `sha256:${missing.id}` },
    };
    expect(await launch(version)).toEqual({
      kind: "failed",
      detail: expect.stringContaining("There is no such repository"),
    });
  });

  it("ends when nobody waits for it any more", async () => {
    const version = aVersion(await anImage(MODEL));
    registry.isSlow = true;
    const result = await launch(version, { signal: AbortSignal.timeout(300) });
    registry.isSlow = false;
    expect(result).toEqual({ kind: "failed", detail: "given up" });
    expect((await launch(version)).kind).toBe("ready");
  });
});
