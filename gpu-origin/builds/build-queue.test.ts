import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../../schema/ids.ts";
import type { BuildEvent } from "../../schema/packages.ts";
import { TestOrigin, temporaryFolder } from "../testing/harness.ts";
import { LOG_CHARACTERS_MAX } from "./build-log.ts";

const YAML = 'build: { python_version: "3.11" }\nrun: "predict.py:Runner"\n';
const PREDICTOR = `from cog import BaseRunner

class Runner(BaseRunner):
    def setup(self):
        self.weights = open("weights.bin", "rb").read(4) if __import__("os").path.exists("weights.bin") else b"none"

    def run(self, text: str) -> str:
        return text + " " + self.weights.decode()
`;

type Finished = Extract<BuildEvent, { type: "finished" }>;

describe("builds at an origin", () => {
  const folder = temporaryFolder();
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start([]);
  });
  afterEach(() => {
    origin.edge.registry.isAway = false;
    origin.edge.registry.outcome = "stored";
  });
  afterAll(async () => {
    await origin.stop();
    folder.remove();
  });

  let count = 0;
  function aFolder(files: Record<string, string | Buffer> = {}): string {
    const path = join(folder.path, `m${count++}`);
    for (const [name, content] of Object.entries({ "cog.yaml": YAML, "predict.py": PREDICTOR, ...files })) {
      mkdirSync(dirname(join(path, name)), { recursive: true });
      writeFileSync(join(path, name), content);
    }
    return path;
  }
  async function start(
    manifest: string,
    more: Record<string, unknown> = {},
  ): Promise<{ id: string; answer: { status: number; body: unknown } }> {
    const id = newId(26);
    const answer = await origin.edge.call("PUT", `/v1/builds/${id}`, {
      protocol: 1,
      build_id: id,
      repository: "alice/model",
      manifest,
      is_trusted: true,
      time_limit_ms: 120_000,
      disk_limit_bytes: 1024 ** 3,
      ...more,
    });
    return { id, answer };
  }
  const eventsOf = (id: string): BuildEvent[] => origin.edge.registry.events.get(id) ?? [];
  const logOf = (id: string): string =>
    eventsOf(id)
      .map((event) => (event.type === "log" ? event.data : ""))
      .join("");
  const finished = (id: string): Promise<Finished> =>
    origin.edge.until(
      () => eventsOf(id).find((event) => event.type === "finished"),
      `the end of build ${id}: ${logOf(id)}`,
      60_000,
    );
  async function build(
    files: Record<string, string | Buffer>,
    more: Record<string, unknown> = {},
  ): Promise<Finished & { id: string }> {
    const { manifest } = await origin.edge.registry.push(aFolder(files));
    const { id } = await start(manifest, more);
    return { ...(await finished(id)), id };
  }
  /** Folders of versions that are there now, half made ones too. */
  const versions = (): string[] =>
    existsSync(join(origin.dataDir, "versions")) ? readdirSync(join(origin.dataDir, "versions")).sort() : [];

  it("make a version of what was pushed: stages, a log with times, schema and description; another origin starts it by its package", async () => {
    const weights = Buffer.alloc(2 * 1024 ** 2, "abcd");
    const model = aFolder({
      "weights.bin": weights,
      "cogway.yaml": "title: Mine\nidempotent: true\nstable: true\n",
      "README.md": "# Mine",
      "example.json": '{"text": "hi"}',
    });
    const { manifest, id } = await origin.edge.registry.push(model);
    const started = await start(manifest);
    expect(started.answer).toMatchObject({ status: 202, body: { build_id: started.id } });
    const end = await finished(started.id);
    expect(end).toMatchObject({
      status: "succeeded",
      version: { id, slots: 1, hardware: "cpu", gpus: 0, egress: false, idempotent: true, cog_version: "0.23.1" },
      description: { title: "Mine", readme: "# Mine", example_input: { text: "hi" }, stable: true },
    });
    const stages = eventsOf(started.id).flatMap((event) => (event.type === "stage" ? [event.stage] : []));
    expect(stages).toEqual(["fetch", "resolve", "environment", "schema"]);
    expect(logOf(started.id)).toMatch(/^fetch: \d+\.\d s$/m);
    expect(logOf(started.id)).toMatch(/^schema: \d+\.\d s$/m);
    expect(logOf(started.id)).not.toContain(origin.dataDir);
    expect(end.version?.prepared).toMatchObject({ environment: { lock: expect.stringMatching(/^cog==0\.23\.1$/m) } });
    expect(end.version?.openapi_schema).toMatchObject({ components: { schemas: { Input: { required: ["text"] } } } });

    if (end.version === undefined) throw new Error("no version");
    const other = await TestOrigin.start([]);
    try {
      for (const [digest, bytes] of origin.edge.registry.blobs) other.edge.registry.blobs.set(digest, bytes);
      for (const [digest, bytes] of origin.edge.registry.manifests) other.edge.registry.manifests.set(digest, bytes);
      const from = { kind: "source" as const, repository: "alice/model", manifest };
      other.edge.registry.packages.set(id, { package: from, version: end.version });
      other.knows("model", { id, slots: 1 });
      const boot = { version_id: id, package: from };
      const instances = await Promise.all([
        other.boot("model", ["ready"], 30_000, boot),
        other.boot("model", ["ready"], 30_000, boot),
      ]);
      const reads = other.edge.registry.reads.length;
      expect((await other.predict("model", instances[0] ?? "", { text: "x" })).output).toBe("x abcd");
      // A second start of the same model downloads nothing.
      await other.boot("model", ["ready"], 30_000, boot);
      expect(other.edge.registry.reads).toHaveLength(reads);
    } finally {
      await other.stop();
    }
  });

  it("of one source, at the same time and later, give one version", async () => {
    const { manifest, id } = await origin.edge.registry.push(aFolder({ "note.txt": "one source" }));
    const [one, two] = [await start(manifest), await start(manifest)];
    const ends = await Promise.all([finished(one.id), finished(two.id)]);
    expect(ends.map((end) => end.version?.id)).toEqual([id, id]);
    const again = await start(manifest);
    expect((await finished(again.id)).version).toEqual(ends[0]?.version);
  });

  it("are taken once, however often they are sent, and known by their state", async () => {
    const { manifest } = await origin.edge.registry.push(aFolder({ "note.txt": "taken once" }));
    const { id } = await start(manifest);
    await finished(id);
    const count = eventsOf(id).length;
    const again = await origin.edge.call("PUT", `/v1/builds/${id}`, {
      ...{ protocol: 1, build_id: id, repository: "alice/model", manifest },
      ...{ is_trusted: true, time_limit_ms: 1_000, disk_limit_bytes: 1 },
    });
    expect(again).toMatchObject({ status: 202, body: { state: "finished", last_event_i: count - 1 } });
    const unknown = await origin.edge.call("GET", `/v1/builds/${newId(26)}`);
    expect(unknown).toMatchObject({ status: 404, body: { code: "build.unknown" } });
  });

  it.each<[string, Record<string, string>, string, RegExp]>([
    ["a broken cog.yaml", { "cog.yaml": "build: [\n" }, "build.manifest", /^cog\.yaml:\d+:\d+ /],
    [
      "an unknown member",
      { "cog.yaml": `${YAML}predictt: x\n` },
      "build.manifest",
      /^cog\.yaml:3:1 .*did you mean predict/,
    ],
    [
      "an impossible torch and CUDA pair",
      {
        "cog.yaml": `build: { gpu: true, cuda: "11.8", python_version: "3.11", python_requirements: r.txt }\nrun: "predict.py:Runner"\n`,
        "r.txt": "torch==2.11.0\n",
      },
      "build.manifest",
      /^cog\.yaml:1:\d+ torch.*Nearest that works: /s,
    ],
    [
      "a requirement that is nowhere",
      { "cog.yaml": YAML.replace('"3.11"', '"3.11", python_packages: ["nosuchpackage-of-nobody==1"]') },
      "build.requirements",
      /nosuchpackage-of-nobody was not found/,
    ],
    [
      "a syntax error",
      { "predict.py": "class Runner:\n    def run(self\n" },
      "build.schema",
      /^predict\.py:2:12: .*never closed/,
    ],
    ["an import that fails", { "predict.py": `import nosuchmodule\n${PREDICTOR}` }, "build.schema", /nosuchmodule/],
    [
      "a missing class",
      { "predict.py": PREDICTOR.replace("class Runner", "class Runer") },
      "build.manifest",
      /predict\.py:Runer\?/,
    ],
    [
      "a command that fails",
      { "cog.yaml": YAML.replace('"3.11"', '"3.11", run: ["echo so it is >&2; exit 3"]') },
      "build.run",
      /build\.run failed: .*so it is/s,
    ],
    [
      "weights that a process cannot have",
      { "cog.yaml": `${YAML}weights: [{ name: w, target: /models, source: note.txt }]\n`, "note.txt": "w" },
      "build.weights",
      /COGWAY_DRIVER=docker/,
    ],
  ])(
    "fail for %s with a stable code and one message that says what to change, and leave nothing",
    async (_what, files, code, message) => {
      const before = versions();
      const end = await build(files);
      expect(end).toMatchObject({ status: "failed", code, error: expect.stringMatching(message) });
      expect(end.error).not.toContain(origin.dataDir);
      await expect.poll(versions).toEqual(before);
    },
  );

  it("put weights where the model looks for them below its own folder", async () => {
    const end = await build({
      "cog.yaml": `${YAML}weights: [{ name: w, target: /src/models, source: { uri: data, exclude: ["*.txt"] } }]\n`,
      "data/a.bin": "abcd",
      "data/b.txt": "no",
    });
    expect(end.version?.prepared).toMatchObject({
      weights: [{ name: "w", target: "/src/models", files: [{ path: "a.bin" }] }],
    });
  });

  const sleeper = (seconds: number): Record<string, string> => ({
    "cog.yaml": YAML.replace('"3.11"', `"3.11", run: ["echo ${newId(8)}; sleep ${seconds}"]`),
  });
  const sleeps = (id: string): Promise<unknown> =>
    origin.edge.until(() => logOf(id).includes("sleep"), "the command", 60_000);

  it("end when they are cancelled, running or waiting, and remove what was half made", async () => {
    const before = versions();
    const { manifest } = await origin.edge.registry.push(aFolder(sleeper(300)));
    const [running, waiting] = [await start(manifest), await start(manifest)];
    expect(waiting.answer.body).toMatchObject({ state: "queued", last_event_i: -1 });
    await sleeps(running.id);
    expect((await origin.edge.call("POST", `/v1/builds/${waiting.id}/cancel`)).status).toBe(202);
    expect((await finished(waiting.id)).status).toBe("canceled");
    expect((await origin.edge.call("POST", `/v1/builds/${running.id}/cancel`)).status).toBe(202);
    expect((await finished(running.id)).status).toBe("canceled");
    await expect.poll(versions).toEqual(before);
  });

  it("end what a predictor does while its schema is made, when they are cancelled", async () => {
    const pidFile = join(folder.path, "pid");
    const lines = [
      "import os, time",
      `open(${JSON.stringify(pidFile)}, "w").write(str(os.getpid()))`,
      "time.sleep(300)",
      PREDICTOR,
    ];
    const { manifest } = await origin.edge.registry.push(aFolder({ "predict.py": lines.join("\n") }));
    const { id } = await start(manifest);
    const pid = await origin.edge.until(
      () => existsSync(pidFile) && Number(readFileSync(pidFile, "utf8")),
      "the import",
    );
    await origin.edge.call("POST", `/v1/builds/${id}/cancel`);
    expect((await finished(id)).status).toBe("canceled");
    await expect.poll(() => isAlive(pid)).toBe(false);
  });

  it("end at their bounds of time and disk", async () => {
    expect(await build(sleeper(300), { time_limit_ms: 8_000 })).toMatchObject({
      status: "failed",
      code: "build.timeout",
    });
    const large = {
      "cog.yaml": YAML.replace('"3.11"', `"3.11", run: ["head -c 60000000 /dev/zero > $VIRTUAL_ENV/x; sleep 300"]`),
    };
    expect(await build(large, { disk_limit_bytes: 50_000_000 })).toMatchObject({
      status: "failed",
      code: "build.disk_full",
      error: expect.stringMatching(/its bound is 48 MiB/),
    });
    expect(await build({ "weights.bin": Buffer.alloc(2_000_000) }, { disk_limit_bytes: 1_000_000 })).toMatchObject({
      status: "failed",
      error: expect.stringMatching(/a build may use 1000000/),
    });
  });

  it("hold a flood of lines to a bound, and say so", async () => {
    const flood = `python -c "for _ in range(${Math.ceil(LOG_CHARACTERS_MAX / 500)}): print('x' * 1000)"; exit 1`;
    const end = await build({ "cog.yaml": YAML.replace('"3.11"', `"3.11", run: [${JSON.stringify(flood)}]`) });
    expect(end).toMatchObject({ status: "failed", code: "build.run" });
    expect(logOf(end.id).length).toBeLessThan(LOG_CHARACTERS_MAX + 1_000);
    expect(logOf(end.id)).toMatch(/further lines were left out/);
  });

  it("are told again when the edge was away, and given up when it does not want them", async () => {
    const { manifest } = await origin.edge.registry.push(aFolder({ "note.txt": "away" }));
    origin.edge.registry.isAway = true;
    const { id } = await start(manifest);
    const state = async () => (await origin.edge.call("GET", `/v1/builds/${id}`)).body;
    await expect.poll(state, { timeout: 30_000 }).toMatchObject({ state: "finished" });
    expect(eventsOf(id)).toEqual([]);
    origin.edge.registry.isAway = false;
    expect((await finished(id)).status).toBe("succeeded");
    expect(eventsOf(id).map(({ i }) => i)).toEqual(eventsOf(id).map((_, index) => index));

    const other = await origin.edge.registry.push(aFolder(sleeper(300)));
    origin.edge.registry.outcome = "fenced";
    const unwanted = await start(other.manifest);
    const known = async () => (await origin.edge.call("GET", `/v1/builds/${unwanted.id}`)).status;
    await expect
      .poll(async () => [await known(), origin.edge.registry.events.get(unwanted.id)], { timeout: 30_000 })
      .toEqual([404, []]);
  });

  it("of others are refused where nothing keeps them apart", async () => {
    const { manifest } = await origin.edge.registry.push(aFolder({}));
    const { answer } = await start(manifest, { is_trusted: false });
    expect(answer).toMatchObject({
      status: 409,
      body: { code: "build.untrusted", detail: expect.stringMatching(/COGWAY_DRIVER=docker/) },
    });
  });

  it("that ran when the origin ended are not known to the next one", async () => {
    const { manifest } = await origin.edge.registry.push(aFolder(sleeper(300)));
    const { id } = await start(manifest);
    await sleeps(id);
    await origin.restart();
    expect((await origin.edge.call("GET", `/v1/builds/${id}`)).status).toBe(404);
    const { id: next } = await start((await origin.edge.registry.push(aFolder({ "note.txt": "next" }))).manifest);
    expect((await finished(next)).status).toBe("succeeded");
  });
}, 180_000);

/** One that nobody has waited for yet is over all the same. */
function isAlive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}
