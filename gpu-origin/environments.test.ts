import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Environments } from "./environments.ts";
import { temporaryFolder } from "./testing/harness.ts";

const SPEC = {
  python_version: null,
  requirements: "",
  run: ["python -c 'import cog'", "echo built > $VIRTUAL_ENV/built.txt; echo x > left-behind.txt"],
};

describe("environments", () => {
  const cache = temporaryFolder();
  const source = temporaryFolder();
  const environments = (): Environments => new Environments(cache.path, process.env);
  let binDir = "";
  const progress: string[] = [];
  beforeAll(async () => {
    const made = await environments().ensure(SPEC, source.path, { onLine: (line) => progress.push(line) });
    if (made.kind !== "ready") throw new Error(JSON.stringify(made));
    binDir = made.binDir;
  }, 240_000);
  afterAll(() => {
    cache.remove();
    source.remove();
  });

  it("hold cog and what build.run made, and say what they do meanwhile", async () => {
    expect((await execa(join(binDir, "python"), ["-c", "import cog, coglet"])).exitCode).toBe(0);
    expect(existsSync(join(dirname(binDir), "built.txt"))).toBe(true);
    expect(readdirSync(source.path)).toEqual([]);
    expect(progress.length).toBeGreaterThan(1);
  });

  it("are made once and shared by equal requirements", async () => {
    rmSync(join(dirname(binDir), "built.txt"));
    const again = await environments().ensure({ ...SPEC }, source.path);
    expect(again).toMatchObject({ kind: "ready", binDir });
    expect(existsSync(join(dirname(binDir), "built.txt"))).toBe(false);
  });

  it("are made anew when their making was cut off, also under a lock of a dead process", async () => {
    const folder = dirname(binDir);
    rmSync(join(folder, ".cogway-complete"));
    rmSync(join(folder, "bin", "python"));
    const dead = await execa("sh", ["-c", "echo $$"]);
    writeFileSync(`${folder}.lock`, dead.stdout);
    const made = await environments().ensure(SPEC, source.path);
    expect(made).toMatchObject({ kind: "ready", binDir });
    expect((await execa(join(binDir, "python"), ["-c", "import cog"])).exitCode).toBe(0);
    expect(readdirSync(dirname(folder)).filter((name) => name.endsWith(".lock"))).toEqual([]);
  });

  it("that cannot be made fail with the installer's own words and leave nothing", async () => {
    mkdirSync(source.path, { recursive: true });
    const failed = await environments().ensure({ ...SPEC, run: ["echo no such library >&2; exit 3"] }, source.path);
    expect(failed).toMatchObject({
      kind: "failed",
      code: "build.run",
      detail: expect.stringContaining("no such library"),
    });
    expect(readdirSync(join(cache.path, "environments"))).toHaveLength(1);
  });

  it("warn where the host has another Python than the model asks for", async () => {
    const made = await environments().ensure({ ...SPEC, python_version: "3.99" }, source.path);
    expect(made).toMatchObject({ kind: "ready", binDir, warning: expect.stringContaining("3.99") });
  });

  it("are resolved to a lock, which names every package; equal locks share an environment", async () => {
    const spec = { python_version: null, requirements: "typing-extensions", run: [] };
    const resolved = await environments().resolve(spec, source.path);
    if (resolved.kind !== "resolved") throw new Error(JSON.stringify(resolved));
    expect(resolved.warnings).toEqual([]);
    expect(resolved.lock).toMatch(/^cog==0\.23\.1$/m);
    expect(resolved.lock).toMatch(/^typing-extensions==\d/m);
    const lock = resolved.lock ?? "";
    const one = await environments().ensure({ ...spec, lock }, source.path);
    if (one.kind !== "ready") throw new Error(JSON.stringify(one));
    const other = await environments().ensure({ ...spec, requirements: "typing-extensions>=0", lock }, source.path);
    expect(other).toMatchObject({ binDir: one.binDir });
    expect(existsSync(join(one.binDir, "..", "lib"))).toBe(true);
    const compiled = await execa("find", [dirname(one.binDir), "-path", "*/site-packages/cog/*.pyc"]);
    expect(compiled.stdout).not.toBe("");
  });

  it.each([
    ["nosuchpackage-of-nobody==1", "nosuchpackage-of-nobody was not found"],
    ["structlog==0.0.99", "you require structlog==0.0.99"],
    ["structlog=1", "no such comparison operator"],
  ])("cannot be resolved from %s, and say why in one message", async (requirements, reason) => {
    const failed = await environments().resolve({ python_version: null, requirements, run: [] }, source.path);
    expect(failed).toMatchObject({
      kind: "failed",
      code: "build.requirements",
      detail: expect.stringContaining(reason),
    });
  });

  it("are resolved without a package registry where the same was resolved before, and not where it was not", async () => {
    const spec = { ...SPEC, requirements: "six==1.16.0" };
    const resolved = await environments().resolve(spec, source.path);
    if (resolved.kind !== "resolved") throw new Error(JSON.stringify(resolved));
    const away = new Environments(cache.path, {
      ...process.env,
      PIP_INDEX_URL: "http://127.0.0.1:9/simple",
      UV_DEFAULT_INDEX: "http://127.0.0.1:9/simple",
      UV_HTTP_RETRIES: "0",
      UV_NO_CACHE: "1",
    });
    expect(await away.resolve(spec, source.path)).toEqual(resolved);
    for (const name of readdirSync(join(cache.path, "locks"))) utimesSync(join(cache.path, "locks", name), 0, 0);
    const old = await away.resolve(spec, source.path);
    expect(old).toMatchObject({ kind: "resolved", lock: resolved.lock });
    expect(old).toHaveProperty("warnings", [expect.stringContaining("earlier build")]);
    expect(await away.resolve({ ...spec, requirements: "six==1.17.0" }, source.path)).toMatchObject({
      kind: "failed",
      code: "build.requirements",
    });
  });

  it("are made by pip, unlocked and with a warning, where uv cannot be had", async () => {
    const own = temporaryFolder();
    const constraints = join(own.path, "constraints.txt");
    writeFileSync(constraints, "uv==0.0.1\n");
    const without = new Environments(own.path, { ...process.env, PIP_CONSTRAINT: constraints });
    const spec = { python_version: null, requirements: "", run: [] };
    const resolved = await without.resolve(spec, source.path);
    expect(resolved).toEqual({ kind: "resolved", warnings: [expect.stringMatching(/uv .* could not be fetched/)] });
    const made = await without.ensure(spec, source.path);
    if (made.kind !== "ready") throw new Error(JSON.stringify(made));
    expect((await execa(join(made.binDir, "python"), ["-c", "import cog"])).exitCode).toBe(0);
    own.remove();
  });

  it("that are given up end everything that was started, and leave nothing", async () => {
    const stop = new AbortController();
    const pidFile = join(cache.path, "pid");
    const run = [`sleep 300 & echo $! > ${pidFile}; echo sleeping; wait`];
    const made = await environments().ensure({ ...SPEC, run }, source.path, {
      signal: stop.signal,
      onLine: (line) => line === "sleeping" && stop.abort(),
    });
    expect(made).toEqual({ kind: "canceled" });
    const pid = Number(readFileSync(pidFile, "utf8"));
    await expect.poll(() => isAlive(pid)).toBe(false);
    await expect.poll(() => readdirSync(join(cache.path, "environments")).length).toBe(2);
  });
}, 240_000);

/** One that nobody has waited for yet is over all the same. */
function isAlive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}
