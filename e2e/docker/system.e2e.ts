/** The started system with the docker driver: models from folders, an image that was built by hand and pushed, and an origin that is killed. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { pack } from "tar-stream";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { type Api, type Model, type Prediction, streamUrl } from "../lib/api.ts";
import { StreamReader } from "../lib/sse.ts";
import { modelFolder, type System } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";
import { engine, instanceContainers, startDockerSystem } from "./lib/docker-system.ts";

const BUILD_TIMEOUT_MS = 180_000;
/** Of the base image and this machine: what `cog build` would have taken. */
const COG = "cog==0.23.1 coglet==0.23.1";

let system: System;
let api: Api;
beforeAll(async () => {
  system = await startDockerSystem({ models: ["noop", "tokens", "files", "inputs", "crash"] });
  ({ api } = system);
});
afterAll(() => system?.stop());

async function versionOf(name: string): Promise<string> {
  const { body } = await api.request<Model>("GET", `/v1/models/cogway/${name}`);
  return body.latest_version?.id ?? "";
}

/** Ids of the containers that run instances of a model of ours. */
async function containersOf(name: string): Promise<string[]> {
  const version = await versionOf(name);
  return (await instanceContainers(system)).filter(({ version_id }) => version_id === version).map(({ id }) => id);
}

test("a model from a folder runs, streams, reads files and makes files", async () => {
  expect(await api.run("noop", { text: "ab", times: 2 })).toMatchObject({ status: "succeeded", output: "abab" });
  const streaming = await api.create("tokens", { count: 5 });
  const reader = StreamReader.open(streamUrl(streaming));
  await reader.untilEnded();
  expect(reader.outputs().join("")).toContain("4");
  const file = `data:text/plain;base64,${Buffer.from("12345").toString("base64")}`;
  expect((await api.run("inputs", { file })).output).toMatchObject({ files: [{ size: 5 }] });
  const made = await api.run("files", { name: "a b.txt", size: 3_000_000 });
  expect(made.status).toBe("succeeded");
  expect((await (await fetch(String(made.output))).arrayBuffer()).byteLength).toBe(3_000_000);
});

test.each(["exit", "segv", "kill"])("a model's process that dies (%s) fails its prediction alone", async (how) => {
  expect(await api.run("crash", { how, pause_s: 0.3 })).toMatchObject({ status: "failed", logs: `about to ${how}\n` });
  expect(await api.run("crash", { how: "none" })).toMatchObject({ status: "succeeded" });
});

test("an origin that is killed finds its warm containers again: the next prediction runs in the same one", async () => {
  await api.run("noop", { text: "before" });
  const before = await containersOf("noop");
  expect(before).toHaveLength(1);
  const { pid } = system.origin();
  system.killOrigin();
  await waitFor("another gpu-origin", 60_000, () => (system.origin().pid === pid ? null : true));
  await system.untilHealthy();
  expect(await api.run("noop", { text: "after" })).toMatchObject({ status: "succeeded", output: "after" });
  expect(await containersOf("noop")).toEqual(before);
});

test(
  "an image that was built by hand with Cog's labels is pushed, becomes a version, and runs",
  async () => {
    const owner = await api.newAccount("image-author");
    const schema =
      (await api.request<Model>("GET", "/v1/models/cogway/noop")).body.latest_version?.openapi_schema ?? {};
    const labels: Record<string, string> = {
      "run.cog.version": "0.23.1",
      "run.cog.config": JSON.stringify({ build: { python_version: "3.11" }, run: "predict.py:Runner" }),
      "run.cog.openapi_schema": JSON.stringify(schema),
    };
    const dockerfile = `FROM ${inject("engine").base}
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PATH=/opt/venv/bin:$PATH COG_PREDICT_TYPE_STUB=predict.py:Runner
RUN python3 -m venv /opt/venv && pip install --no-cache-dir ${COG}
WORKDIR /src
COPY predict.py cog.yaml ./
COPY openapi_schema.json .cog/
CMD ["python", "-m", "cog.server.http"]
`;
    const context = pack();
    context.entry({ name: "Dockerfile" }, dockerfile);
    for (const name of ["predict.py", "cog.yaml"])
      context.entry({ name }, readFileSync(join(modelFolder("noop"), name)));
    context.entry({ name: "openapi_schema.json" }, JSON.stringify(schema));
    context.finalize();
    const host = new URL(system.url).host;
    const repository = `${host}/image-author/by-hand`;
    const created = await owner.request("POST", "/v1/models", {
      body: { owner: "image-author", name: "by-hand", visibility: "private", hardware: "cpu" },
    });
    expect(created.status).toBe(201);
    const docker = engine();
    const built = await text(await docker.buildImage(Readable.from(context), { t: `${repository}:v1`, labels }));
    expect(built).toContain("Successfully tagged");
    try {
      const authconfig = { username: "image-author", password: owner.token, serveraddress: host };
      // Its types say that it answers nothing.
      const push: unknown = docker.getImage(`${repository}:v1`).push({ tag: "v1", authconfig });
      const pushed = await text(Readable.from((await push) as AsyncIterable<Buffer>));
      expect(pushed).toMatch(/digest: sha256:/);
    } finally {
      // The origin pulls it from the registry, as any other would.
      await docker.getImage(`${repository}:v1`).remove({ force: true });
    }
    const version = await waitFor("the version", 30_000, async () => {
      const { body } = await owner.request<Model>("GET", "/v1/models/image-author/by-hand");
      return body.latest_version;
    });
    expect(version.openapi_schema).toMatchObject({ components: expect.any(Object) });
    const answer = await owner.request<Prediction>("POST", "/v1/models/image-author/by-hand/predictions", {
      body: { input: { text: "by hand ", times: 2 } },
      headers: { prefer: "wait=60" },
    });
    expect(await owner.untilEnd(answer.body)).toMatchObject({ status: "succeeded", output: "by hand by hand " });
  },
  BUILD_TIMEOUT_MS,
);
