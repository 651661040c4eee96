/**
 * The registry as its clients see it: the conformance program of the OCI distribution API, in the form of its four parts and in the newest one, and skopeo.
 * The first is built by Go, once, into the cache; where there is no Go or no skopeo, one line says so.
 */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Api } from "./lib/api.ts";
import { goProgram } from "./lib/go-program.ts";
import { RUN_TIMEOUT_MS as BUILD_TIMEOUT_MS, mustRun, run } from "./lib/run.ts";
import { System } from "./lib/system.ts";

const MODULE = "github.com/opencontainers/distribution-spec/conformance";
/** The last one that is a test with parts for pull, push, content discovery and content management. */
const PARTS_VERSION = "v0.0.0-20231101194043-f2182352d4cc";
const NEWEST_VERSION = "v0.0.0-20260831232431-97274622c111";
const RUN_TIMEOUT_MS = 100_000;

const owner = "registry";
const folder = mkdtempSync(join(tmpdir(), "cogway-e2e-registry-"));
let system: System;
let caller: Api;
beforeAll(async () => {
  system = await System.start({ models: ["noop"] });
  caller = await system.api.newAccount(owner);
});
afterAll(async () => {
  await system?.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function newRepository(name: string): Promise<string> {
  const body = { owner, name, visibility: "private", hardware: "cpu" };
  const answer = await caller.request("POST", "/v1/models", { body });
  if (answer.status !== 201) throw new Error(`${answer.status}: ${answer.text}`);
  return `${owner}/${name}`;
}

function conformance(version: string, build: string[]): Promise<string | null> {
  return goProgram("registry conformance", { name: "conformance", module: MODULE, version, build });
}

test("the conformance program passes its four parts: pull, push, content discovery, content management", {
  timeout: BUILD_TIMEOUT_MS + RUN_TIMEOUT_MS,
}, async () => {
  const program = await conformance(PARTS_VERSION, ["test", "-c"]);
  if (program === null) return;
  const [repository, other] = [await newRepository("parts-1"), await newRepository("parts-2")];
  const output = await mustRun(program, [], {
    cwd: folder,
    env: {
      OCI_ROOT_URL: caller.url,
      OCI_NAMESPACE: repository,
      OCI_CROSSMOUNT_NAMESPACE: other,
      OCI_USERNAME: owner,
      OCI_PASSWORD: caller.token,
      OCI_TEST_PULL: "1",
      OCI_TEST_PUSH: "1",
      OCI_TEST_CONTENT_DISCOVERY: "1",
      OCI_TEST_CONTENT_MANAGEMENT: "1",
      OCI_HIDE_SKIPPED_WORKFLOWS: "0",
      OCI_REPORT_DIR: folder,
    },
  });
  const plain = output.replaceAll(new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, "g"), "");
  expect(/(\d+) Passed \| 0 Failed/.exec(plain)?.[1], plain.slice(-2_000)).toBe("74");
});

test("the newest conformance program passes, with what it does not ask by default", {
  timeout: BUILD_TIMEOUT_MS + RUN_TIMEOUT_MS,
}, async () => {
  const program = await conformance(NEWEST_VERSION, ["build"]);
  if (program === null) return;
  const [repository, other] = [await newRepository("newest-1"), await newRepository("newest-2")];
  const output = await mustRun(program, [], {
    cwd: folder,
    env: {
      OCI_REGISTRY: new URL(caller.url).host,
      OCI_TLS: "disabled",
      OCI_REPO1: repository,
      OCI_REPO2: other,
      OCI_USERNAME: owner,
      OCI_PASSWORD: caller.token,
      OCI_API_BLOBS_UPLOAD_CANCEL: "true",
      OCI_API_BLOBS_DIGEST_HEADER: "true",
      OCI_API_MANIFESTS_DIGEST_HEADER: "true",
      OCI_API_MANIFESTS_TAG_PARAM: "true",
      // Blobs are mounted from repositories that are named.
      OCI_API_BLOBS_MOUNT_ANONYMOUS: "false",
      OCI_RESULTS_DIR: join(folder, "results"),
    },
  });
  expect(output).toContain("OCI Conformance Test: Pass");
  expect(/FAIL\.*: +(\d+)/.exec(output)?.[1]).toBe("0");
});

test("skopeo copies an image in, between repositories and out again", async () => {
  if ((await run("skopeo", ["--version"])).code !== 0) {
    process.stderr.write("skopeo scenario not run: no skopeo was found\n");
    return;
  }
  const layout = join(folder, "image");
  const layer = writeImage(layout);
  const host = new URL(caller.url).host;
  const [first, second] = [await newRepository("skopeo-1"), await newRepository("skopeo-2")];
  const authFile = join(folder, "auth.json");
  const auth = Buffer.from(`anybody:${caller.token}`).toString("base64");
  writeFileSync(authFile, JSON.stringify({ auths: { [host]: { auth } } }));
  const policy = join(folder, "policy.json");
  writeFileSync(policy, JSON.stringify({ default: [{ type: "insecureAcceptAnything" }] }));
  const copy = (from: string, to: string) =>
    mustRun("skopeo", [
      ...[
        "--policy",
        policy,
        "copy",
        "--preserve-digests",
        "--authfile",
        authFile,
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
      ],
      ...[from, to],
    ]);
  await copy(`oci:${layout}:v1`, `docker://${host}/${first}:v1`);
  await copy(`docker://${host}/${first}:v1`, `docker://${host}/${second}:v2`);
  await copy(`docker://${host}/${second}:v2`, `oci:${join(folder, "back")}:v2`);
  const back = join(folder, "back/blobs/sha256");
  expect(readdirSync(back).toSorted()).toEqual(readdirSync(join(layout, "blobs/sha256")).toSorted());
  expect(readFileSync(join(back, layer)).length).toBe(20_000_000);
  const stranger = await system.api.newAccount("registry-stranger");
  writeFileSync(
    authFile,
    JSON.stringify({ auths: { [host]: { auth: Buffer.from(`x:${stranger.token}`).toString("base64") } } }),
  );
  await expect(copy(`docker://${host}/${first}:v1`, `oci:${join(folder, "stolen")}:v1`)).rejects.toThrow(
    /There is no model|name unknown/,
  );
});

/** An image of one layer as files of the OCI layout. Gives the hex of the layer's digest. */
function writeImage(layout: string): string {
  const blobs = join(layout, "blobs/sha256");
  mkdirSync(blobs, { recursive: true });
  const put = (bytes: Buffer): string => {
    const hex = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(join(blobs, hex), bytes);
    return hex;
  };
  const putJson = (value: unknown, mediaType: string) => {
    const bytes = Buffer.from(JSON.stringify(value));
    return { mediaType, digest: `sha256:${put(bytes)}`, size: bytes.length };
  };
  const bytes = Buffer.alloc(20_000_000);
  for (let i = 0; i < bytes.length; i += 4) bytes.writeUInt32LE(Math.imul(i, 2_654_435_761) >>> 0, i);
  const layer = put(bytes);
  const config = putJson(
    {
      architecture: "amd64",
      os: "linux",
      config: {},
      rootfs: { type: "layers", diff_ids: [`sha256:${layer}`] },
      history: [],
    },
    "application/vnd.oci.image.config.v1+json",
  );
  const manifest = putJson(
    {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      config,
      layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest: `sha256:${layer}`, size: bytes.length }],
    },
    "application/vnd.oci.image.manifest.v1+json",
  );
  writeFileSync(join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
  const annotations = { "org.opencontainers.image.ref.name": "v1" };
  writeFileSync(
    join(layout, "index.json"),
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...manifest, annotations }] }),
  );
  return layer;
}
