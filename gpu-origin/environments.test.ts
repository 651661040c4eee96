import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Environments } from "./environments.ts";
import { temporaryFolder } from "./testing/harness.ts";

const SPEC = { python_version: null, requirements: "", run: ["echo built > built.txt", "python -c 'import cog'"] };

describe("environments", () => {
  const cache = temporaryFolder();
  const source = temporaryFolder();
  const environments = (): Environments => new Environments(cache.path, process.env);
  let binDir = "";
  const progress: string[] = [];
  beforeAll(async () => {
    const made = await environments().ensure(SPEC, source.path, (detail) => progress.push(detail));
    if (made.kind === "failed") throw new Error(made.detail);
    binDir = made.binDir;
  }, 240_000);
  afterAll(() => {
    cache.remove();
    source.remove();
  });

  it("hold cog and what build.run made, and say what they do meanwhile", async () => {
    expect((await execa(join(binDir, "python"), ["-c", "import cog, coglet"])).exitCode).toBe(0);
    expect(existsSync(join(source.path, "built.txt"))).toBe(true);
    expect(progress.length).toBeGreaterThan(1);
  });

  it("are made once and shared by equal requirements", async () => {
    rmSync(join(source.path, "built.txt"));
    const again = await environments().ensure({ ...SPEC }, source.path);
    expect(again).toMatchObject({ kind: "ready", binDir });
    expect(existsSync(join(source.path, "built.txt"))).toBe(false);
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
    expect(failed).toMatchObject({ kind: "failed", detail: expect.stringContaining("no such library") });
    expect(readdirSync(join(cache.path, "environments"))).toHaveLength(1);
  });

  it("warn where the host has another Python than the model asks for", async () => {
    const made = await environments().ensure({ ...SPEC, python_version: "3.99" }, source.path);
    expect(made).toMatchObject({ kind: "ready", binDir, warning: expect.stringContaining("3.99") });
  });
}, 240_000);
