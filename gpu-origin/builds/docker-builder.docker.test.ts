import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import Docker from "dockerode";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { digestOf, listFiles, readFiles } from "../packaging/source.ts";
import { type PreparedVersion, trainerOf, VersionStore } from "../prepared-version.ts";
import type { BuildRequest, BuildResult, Launch, LaunchResult, SourceFolder } from "./builder.ts";
import { DockerBuilder } from "./docker-builder.ts";
import { HOLDER_LABEL, tagOf } from "./docker-builder-image.ts";
import { SCHEMA_CONTAINER_LABEL } from "./docker-builder-schema.ts";

const host = process.env["COGWAY_TEST_DOCKER_HOST"] ?? "unix:///var/run/docker.sock";
const docker = new Docker({ socketPath: host.replace(/^unix:\/\//, "") });
const base = process.env["COGWAY_BASE_IMAGE"] ?? "local/base:bookworm";
const MINUTE_MS = 60_000;

const PREDICTOR = `from cog import BaseRunner, Input

class Runner(BaseRunner):
    def setup(self):
        self.size = len(open("weights.bin", "rb").read())

    def run(self, text: str = Input(description="what to say")) -> str:
        return f"{text} {self.size}"
`;
const COG_YAML = `build:
  python_version: "3.11"
  python_requirements: requirements.txt
environment:
  - 'GREETING=he said "hi" \\ $HOME #'
run: predict.py:Runner
`;
const FILES = {
  "cog.yaml": COG_YAML,
  "predict.py": PREDICTOR,
  "requirements.txt": "six==1.16.0\n",
  "data/words.txt": "a\n",
};

let root: string;
let versions: VersionStore;
let builder: DockerBuilder;
const made: string[] = [];

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "cogway-images-"));
  versions = new VersionStore(join(root, "versions"));
  builder = newBuilder("cache");
});

afterAll(async () => {
  for (const id of made) await builder.images.remove(id);
  rmSync(root, { recursive: true, force: true });
});

function newBuilder(
  cache: string,
  settings: { buildSecrets?: Map<string, Buffer>; base?: string; env?: Record<string, string> } = {},
): DockerBuilder {
  const stateDir = join(root, cache);
  mkdirSync(stateDir, { recursive: true });
  return new DockerBuilder({
    docker,
    versions,
    edge: { registryToken: async () => ({ kind: "refused", status: 404, detail: "there is no registry here" }) },
    registryHost: async () => "127.0.0.1:1",
    originId: "images-test",
    baseOf: () => settings.base ?? base,
    env: settings.env ?? process.env,
    buildSecrets: settings.buildSecrets ?? new Map(),
    runtime: null,
    stateDir,
  });
}

/** A source as an origin has it: its files below the folder of its version. */
async function aSource(files: Record<string, string | Buffer>): Promise<SourceFolder> {
  const folder = mkdtempSync(join(root, "model-"));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content, { mode: 0o755 });
  }
  const listed = await readFiles(folder, listFiles(folder));
  const id = digestOf(listed);
  made.push(id);
  await versions.takeSource({ id, name: "model", folder, files: listed });
  return { id, name: "model", folder: versions.sourceFolder(id), files: listed };
}

interface Watched {
  result: BuildResult;
  lines: string[];
  stages: string[];
}

async function build(
  source: SourceFolder,
  options: Partial<BuildRequest> & { by?: DockerBuilder } = {},
): Promise<Watched> {
  const lines: string[] = [];
  const stages: string[] = [];
  const result = await (options.by ?? builder).build({
    source,
    is_trusted: true,
    signal: AbortSignal.timeout(4 * MINUTE_MS),
    time_limit_ms: 4 * MINUTE_MS,
    disk_limit_bytes: 4 * 1024 ** 3,
    onStage: (stage) => stages.push(stage),
    onLine: (line) => lines.push(line),
    ...options,
  });
  return { result, lines, stages };
}

function failure({ result, lines }: Watched): { code: string; detail: string } {
  if (result.kind !== "failed") throw new Error(`${result.kind}, not failed: ${lines.join("\n")}`);
  return result;
}

async function layersOf(id: string): Promise<string[]> {
  return (await docker.getImage(tagOf(id)).inspect()).RootFS.Layers ?? [];
}

/** The engine writes a header of eight bytes before each piece. */
function withoutHeaders(logs: Buffer): string {
  const pieces: Buffer[] = [];
  for (let at = 0; at + 8 <= logs.length; ) {
    const end = at + 8 + logs.readUInt32BE(at + 4);
    pieces.push(logs.subarray(at + 8, end));
    at = end;
  }
  return Buffer.concat(pieces).toString("utf8");
}

/** Runs a command in the image as the driver does, and answers what it prints. */
async function inImage(id: string, command: string[], binds: string[] = []): Promise<string> {
  const container = await docker.createContainer({
    Image: tagOf(id),
    Cmd: command,
    HostConfig: {
      NetworkMode: "none",
      ReadonlyRootfs: true,
      CapDrop: ["ALL"],
      Binds: binds,
      Tmpfs: { "/tmp": "mode=1777" },
    },
  });
  try {
    await container.start();
    await container.wait();
    return withoutHeaders(await container.logs({ stdout: true, stderr: true }));
  } finally {
    await container.remove({ force: true, v: true });
  }
}

describe("a build of a source", () => {
  it("makes an image that runs without rights, has Cog's labels and the schema, and holds small files alone", {
    timeout: 5 * MINUTE_MS,
  }, async () => {
    // Also a name that would be options of a mount, were it not quoted by the API.
    const large = Buffer.alloc(2 * 1024 ** 2, 7);
    const source = await aSource({ ...FILES, "weights.bin": large, "more/a:b,c d.bin": large });
    const watched = await build(source);
    const { result } = watched;
    if (result.kind !== "built") throw new Error(watched.lines.join("\n"));
    expect(watched.stages).toEqual(["resolve", "environment", "schema", "image"]);
    expect(result.version).toMatchObject({ id: source.id, ref: "predict.py:Runner", slots: 1, gpus: 0 });
    expect(result.version.environment.lock).toContain("six==1.16.0");

    const { Config } = await docker.getImage(tagOf(source.id)).inspect();
    expect(Config).toMatchObject({
      User: "10001:10001",
      WorkingDir: "/src",
      Cmd: ["python", "-m", "cog.server.http"],
      ExposedPorts: { "5000/tcp": {} },
    });
    expect(Config.Env).toContain('GREETING=he said "hi" \\ $HOME #');
    expect(Config.Env).toContain("COG_PREDICT_TYPE_STUB=predict.py:Runner");
    expect(JSON.parse(Config.Labels["run.cog.config"] ?? "")).toMatchObject({ build: { python_version: "3.11" } });
    expect(JSON.parse(Config.Labels["run.cog.openapi_schema"] ?? "")).toEqual(result.version.schema);
    expect(Config.Labels["run.cog.pip_freeze"]?.split("\n")).toContain("six==1.16.0");

    const seen = await inImage(source.id, [
      "sh",
      "-c",
      "id -u; ls -R /src; cat /src/.cog/openapi_schema.json | head -c 40; echo; ls /opt/uv /root/.cache/uv /requirements /run/secrets 2>&1; whoami",
    ]);
    expect(seen).toMatch(/^10001\n/);
    expect(seen).toContain("words.txt");
    expect(seen).not.toContain("weights.bin");
    expect(seen).toContain('{"openapi":"3.0.2"');
    const history = JSON.stringify(await docker.getImage(tagOf(source.id)).history());
    expect(history).not.toContain("SSL_CERT_FILE");

    const again = await build(source);
    expect(again.result).toMatchObject({ kind: "built", version: result.version });
    expect(again.lines).toEqual([]);
  });

  it("is again one small layer, and the schema's, after a change of one line", { timeout: 5 * MINUTE_MS }, async () => {
    const before = await aSource({ ...FILES, "weights.bin": Buffer.alloc(2 * 1024 ** 2, 7) });
    expect((await build(before)).result.kind).toBe("built");
    const after = await aSource({
      ...FILES,
      "weights.bin": Buffer.alloc(2 * 1024 ** 2, 7),
      "predict.py": PREDICTOR.replace("{text} {self.size}", "{text}, {self.size}"),
    });
    const watched = await build(after);
    expect(watched.result.kind).toBe("built");
    const [old, now] = [await layersOf(before.id), await layersOf(after.id)];
    expect(now.length).toBe(old.length);
    expect(now.slice(0, -2)).toEqual(old.slice(0, -2));
    const history = await docker.getImage(tagOf(after.id)).history();
    const sizes = z
      .array(z.object({ Size: z.number() }))
      .parse(history)
      .map(({ Size }) => Size);
    for (const size of sizes.slice(0, 2)) expect(size).toBeLessThan(64 * 1024);
    expect(watched.lines.join("\n")).toContain("==> Installing the requirements (as before)");
  });
});

describe("a build that fails", () => {
  it.each([
    {
      what: "a requirement that nobody has",
      files: { "requirements.txt": "no-such-package-of-cogway==1.0\n" },
      code: "build.requirements",
      detail: /^Installing the requirements failed:[\s\S]*no-such-package-of-cogway[\s\S]*Correct the requirements/,
    },
    {
      what: "a Debian package that is not there",
      files: { "cog.yaml": COG_YAML.replace("build:", "build:\n  system_packages: [no-such-package-of-cogway]") },
      code: "build.system_packages",
      detail: /Unable to locate package no-such-package-of-cogway[\s\S]*build.system_packages/,
    },
    {
      what: "a command of build.run",
      files: { "cog.yaml": COG_YAML.replace("build:", "build:\n  run:\n    - echo on the way && exit 7") },
      code: "build.run",
      detail: /^build.run: echo on the way && exit 7 failed:\non the way\n/,
    },
    {
      what: "a syntax error",
      files: { "predict.py": `${PREDICTOR}\n  def broken(:\n` },
      code: "build.schema",
      detail: /^predict\.py:\d+/,
    },
    {
      what: "a module that is missing",
      files: { "predict.py": `import torch\n${PREDICTOR}` },
      code: "build.schema",
      detail: /predict\.py:1: no module named torch; add torch to the requirements/,
    },
    {
      what: "a broken cog.yaml",
      files: { "cog.yaml": COG_YAML.replace("python_requirements", "python_requirement") },
      code: "build.manifest",
      detail: /^cog\.yaml:3:3.*did you mean python_requirements\?/,
    },
    {
      what: "a torch that fits no Python",
      files: {
        "requirements.txt": "torch==1.12.1\n",
        "cog.yaml": COG_YAML.replace('"3.11"', '"3.12"'),
      },
      code: "build.manifest",
      detail: /Nearest that works/,
    },
    {
      what: "a Python that cannot be had",
      files: { "cog.yaml": COG_YAML.replace('"3.11"', '"3.11.77"') },
      code: "build.python",
      detail: /Python 3\.11\.77 cannot be had here/,
    },
  ])("says what to change: $what", { timeout: 2 * MINUTE_MS }, async ({ files, code, detail }) => {
    const source = await aSource({ ...FILES, ...files });
    const fault = failure(await build(source));
    expect(fault.detail).toMatch(detail);
    expect(fault.code).toBe(code);
    expect(await builder.images.get(source.id)).toBeNull();
  });

  it("says what the host lacks: the base image, or its authorities", { timeout: 2 * MINUTE_MS }, async () => {
    const source = await aSource({ ...FILES, "weights.bin": Buffer.from(once()) });
    const elsewhere = newBuilder("no-base", { base: "127.0.0.1:1/no-such-image:1" });
    expect(failure(await build(source, { by: elsewhere }))).toEqual({
      kind: "failed",
      code: "build.image",
      detail: expect.stringMatching(/base image could not be pulled: .*no-such-image.*COGWAY_BASE_IMAGE/s),
    });
    const without = newBuilder("no-authorities", { env: { PIP_CERT: "/no/such/file.pem" } });
    expect(failure(await build(source, { by: without }))).toMatchObject({
      code: "build.environment",
      detail: expect.stringContaining("/no/such/file.pem"),
    });
  });

  it("ends what runs when it is canceled, and leaves nothing", { timeout: 2 * MINUTE_MS }, async () => {
    const source = await aSource({
      ...FILES,
      "cog.yaml": COG_YAML.replace("build:", "build:\n  run:\n    - echo begun && sleep 86417"),
    });
    const abort = new AbortController();
    const watched = build(source, {
      signal: abort.signal,
      onLine: (line) => {
        if (line === "begun") abort.abort();
      },
    });
    expect((await watched).result).toEqual({ kind: "canceled" });
    await until(() => !commandLines().some((line) => line.includes("86417")));
    expect(await leftContainers()).toEqual([]);
  });

  it("stays within its time, and within its disk", { timeout: 2 * MINUTE_MS }, async () => {
    const slow = await aSource({
      ...FILES,
      "cog.yaml": COG_YAML.replace("build:", "build:\n  run:\n    - sleep 86418"),
    });
    const late = failure(await build(slow, { time_limit_ms: 8_000 }));
    expect(late).toMatchObject({ code: "build.timeout", detail: expect.stringContaining("bound of 8 s") });

    const large = await aSource({
      ...FILES,
      "cog.yaml": COG_YAML.replace(
        "build:",
        "build:\n  run:\n    - i=0; while true; do head -c 67108864 /dev/zero > /opt/$i; i=$((i+1)); sleep 0.2; done",
      ),
    });
    const filled = failure(await build(large, { disk_limit_bytes: 700 * 1024 ** 2 }));
    expect(filled.code).toBe("build.disk_full");
    expect(filled.detail).toMatch(/filled more than 700 MiB/);
    await until(() => !commandLines().some((line) => line.includes("86418")));
  });

  it("takes nothing of a model that misbehaves when it is imported", { timeout: 3 * MINUTE_MS }, async () => {
    const reach = `
import os, socket, sys
def attempt(name, action):
    try:
        action()
        print("REACHED", name, file=sys.stderr)
    except Exception as error:
        print("refused", name, type(error).__name__, file=sys.stderr)
attempt("network", lambda: socket.create_connection(("1.1.1.1", 53), 2))
attempt("disk", lambda: open("/src/written", "w"))
attempt("root", lambda: open("/etc/written", "w"))
attempt("uid", lambda: os.setuid(0))
attempt("secrets", lambda: open("/run/secrets/cogway_host"))
raise RuntimeError("done")
`;
    const source = await aSource({ ...FILES, "predict.py": `${reach}${PREDICTOR}` });
    const watched = await build(source, { is_trusted: false });
    expect(failure(watched).detail).toMatch(/RuntimeError: done/);
    const said = watched.lines
      .filter((line) => /^(refused|REACHED) /.test(line))
      .map((line) => line.split(" ").slice(0, 2).join(" "));
    expect(said).toEqual(["refused network", "refused disk", "refused root", "refused uid", "refused secrets"]);

    const bomb = await aSource({ ...FILES, "predict.py": `x = bytearray(16 * 1024 ** 3)\n${PREDICTOR}` });
    expect(failure(await build(bomb)).detail).toMatch(/memory/);
  });
});

describe("what stands in cog.yaml", () => {
  it("becomes no instruction, whatever it holds", { timeout: 3 * MINUTE_MS }, async () => {
    const environment = [
      'A="\\nRUN touch /opt/injected',
      'B=x" C="y',
      "D=\\",
      "F=\u2028\u0085 RUN \u00a0",
      "E=$HOME:$" + "{PATH} `id` $(id)",
    ];
    const hostile = {
      build: {
        python_version: "3.11",
        run: [
          "cat <<EOF > /opt/heredoc\nRUN touch /opt/injected\nUSER root\nEOF\n",
          `: ${once()}; printf '%s\\n' "quote \\" 'single' $HOME \\\\"`,
        ],
      },
      environment,
      run: "predict.py:Runner",
    };
    const source = await aSource({
      "cog.yaml": JSON.stringify(hostile),
      "predict.py": PREDICTOR.replace(/ {4}def setup[\s\S]*?\n\n/, "").replace(" {self.size}", ""),
    });
    const watched = await build(source);
    if (watched.result.kind !== "built") throw new Error(failure(watched).detail);
    const { Config } = await docker.getImage(tagOf(source.id)).inspect();
    expect(Config.User).toBe("10001:10001");
    expect(Config.Env).toEqual(expect.arrayContaining(environment));
    expect(Config.Env).not.toContain("C=y");
    const seen = await inImage(source.id, ["sh", "-c", "cat /opt/heredoc; ls /opt"]);
    expect(seen).toContain("RUN touch /opt/injected\nUSER root\n");
    expect(seen).not.toMatch(/^injected$/m);
    expect(watched.lines).toContain("quote \" 'single' /root \\");
  });

  it("asks for secrets in vain, unless the model is the operator's", { timeout: 3 * MINUTE_MS }, async () => {
    const cog = COG_YAML.replace(
      "build:",
      `build:
  run:
    - command: true ${once()}; if [ -f /etc/token ]; then echo "has $(wc -c < /etc/token)"; else echo has none; fi
      mounts:
        - {type: secret, id: token, target: /etc/token}`,
    );
    const by = newBuilder("secrets", { buildSecrets: new Map([["token", Buffer.from("12345")]]) });
    const mine = await build(await aSource({ ...FILES, "weights.bin": Buffer.alloc(1), "cog.yaml": cog }), { by });
    expect(mine.lines).toContain("has 5");
    const theirs = await build(await aSource({ ...FILES, "weights.bin": Buffer.alloc(2), "cog.yaml": cog }), {
      by,
      is_trusted: false,
    });
    expect(theirs.lines).toContain("has none");
    expect(theirs.result).toMatchObject({
      kind: "built",
      warnings: expect.arrayContaining([expect.stringContaining("no secret token")]),
    });
  });
});

/** In a command: what BuildKit did before says nothing again. */
function once(): string {
  return randomBytes(8).toString("hex");
}

async function leftContainers(): Promise<string[]> {
  const label = [`${HOLDER_LABEL}=images-test`, `${SCHEMA_CONTAINER_LABEL}=images-test`];
  const lists = await Promise.all(
    label.map((each) => docker.listContainers({ all: true, filters: { label: [each] } })),
  );
  return lists.flat().map(({ Id }) => Id);
}

function commandLines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return [readFileSync(`/proc/${pid}/cmdline`, "utf8")];
      } catch {
        return [];
      }
    });
}

/** Waits for it, but not for ever. */
async function until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
  for (const end = Date.now() + timeoutMs; !condition() && Date.now() < end; ) await wait(50);
  expect(condition()).toBe(true);
}

/** Starts an instance as the driver does, on the default network, and answers what one prediction gives. */
async function predict(launch: Launch, schema: string, input: object): Promise<unknown> {
  if (launch.kind !== "image") throw new Error("no image");
  const container = await docker.createContainer({
    Image: launch.image,
    Cmd: [
      ...(launch.prefix ?? []),
      "python",
      "-m",
      "cog.server.http",
      "--host",
      "0.0.0.0",
      ...(schema === "training" ? ["--x-mode", "train"] : []),
    ],
    HostConfig: {
      ReadonlyRootfs: true,
      CapDrop: ["ALL"],
      SecurityOpt: ["no-new-privileges"],
      Tmpfs: { "/tmp": "mode=1777,exec" },
      Binds: launch.mounts.map(({ source, target }) => `${source}:${target}:ro`),
    },
  });
  try {
    await container.start();
    const { IPAddress } = (await container.inspect()).NetworkSettings.Networks["bridge"] ?? { IPAddress: "" };
    const base = `http://${IPAddress}:5000`;
    for (const end = Date.now() + 20_000; Date.now() < end; await wait(100)) {
      const health = await fetch(`${base}/health-check`).then(
        (answer) => answer.json(),
        () => ({}),
      );
      if (z.object({ status: z.string() }).safeParse(health).data?.status === "READY") break;
    }
    const post = (accept: string): Promise<Response> =>
      fetch(`${base}/predictions`, {
        method: "POST",
        headers: { "content-type": "application/json", accept },
        body: JSON.stringify({ input }),
      });
    expect((await post("text/event-stream")).status).toBe(200);
    await wait(50);
    return z.object({ output: z.unknown() }).parse(await (await post("application/json")).json()).output;
  } finally {
    await container.remove({ force: true, v: true });
  }
}

function launchOf(
  by: DockerBuilder,
  version: PreparedVersion,
  mode: "predict" | "train" = "predict",
): Promise<LaunchResult> {
  return by.launch(version, {
    instance_id: "images-instance",
    mode,
    signal: AbortSignal.timeout(2 * MINUTE_MS),
    onProgress: () => {},
  });
}

function launchIn(result: LaunchResult): Launch {
  if (result.kind === "failed") throw new Error(result.detail);
  return result.launch;
}

describe("a launch of a source", () => {
  it("starts its image with the large files, and makes it again, of the same packages, where it is gone", {
    timeout: 4 * MINUTE_MS,
  }, async () => {
    const source = await aSource({
      ...FILES,
      "weights.bin": Buffer.alloc(3 * 1024 ** 2, 9),
      "requirements.txt": "six\n",
    });
    const { result } = await build(source);
    if (result.kind !== "built") throw new Error("not built");
    const version = {
      ...result.version,
      environment: {
        ...result.version.environment,
        lock: result.version.environment.lock?.replace(/^six==.*$/m, "six==1.15.0"),
      },
    };
    versions.save(result.version);
    const first = await launchOf(builder, version);
    expect(await predict(launchIn(first), "", { text: "size" })).toBe(`size ${3 * 1024 ** 2}`);
    if (first.kind === "ready") first.release();

    await builder.images.remove(source.id);
    const second = await launchOf(builder, version);
    expect(await predict(launchIn(second), "", { text: "size" })).toBe(`size ${3 * 1024 ** 2}`);
    const { Config } = await docker.getImage(tagOf(source.id)).inspect();
    expect(Config.Labels["run.cog.pip_freeze"]).toContain("six==1.15.0");
  });

  it("gives a trainer a working folder of its own", { timeout: 4 * MINUTE_MS }, async () => {
    const train = `import os
from cog import BaseModel

def train(word: str) -> str:
    with open("notes.txt", "w") as file:
        file.write(word)
    os.makedirs("data/new", exist_ok=True)
    return open("notes.txt").read() + open("data/words.txt").read().strip() + str(os.path.exists("/src/notes.txt"))
`;
    const source = await aSource({
      ...FILES,
      "weights.bin": Buffer.alloc(5),
      "train.py": train,
      "cog.yaml": `${COG_YAML}train: train.py:train\n`,
    });
    const { result } = await build(source);
    if (result.kind !== "built") throw new Error("not built");
    versions.save(result.version);
    const launched = await launchOf(builder, trainerOf(result.version), "train");
    expect(await predict(launchIn(launched), "training", { word: "mine " })).toBe("mine aFalse");
  });

  it("keeps an image while a container has it, and leaves nothing of it afterwards", {
    timeout: 4 * MINUTE_MS,
  }, async () => {
    const source = await aSource({ ...FILES, "weights.bin": Buffer.from(once()) });
    expect((await build(source)).result.kind).toBe("built");
    const { Parent } = await docker.getImage(tagOf(source.id)).inspect();
    const container = await docker.createContainer({ Image: tagOf(source.id), HostConfig: { NetworkMode: "none" } });
    expect(await builder.images.remove(source.id)).toBe(false);
    await container.remove({ force: true });
    expect(await builder.images.remove(source.id)).toBe(true);
    expect(await builder.images.get(source.id)).toBeNull();
    await expect(docker.getImage(Parent).inspect()).rejects.toMatchObject({ statusCode: 404 });
  });
});
