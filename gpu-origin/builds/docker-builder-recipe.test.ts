import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readModel } from "../packaging/check-model.ts";
import { digestOf, listFiles, readFiles } from "../packaging/source.ts";
import { type RecipeOptions, recipeOf } from "./docker-builder-recipe.ts";

const root = mkdtempSync(join(tmpdir(), "cogway-recipe-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function recipe(build: object, files: Record<string, string> = {}, options: Partial<RecipeOptions> = {}) {
  const folder = mkdtempSync(join(root, "model-"));
  const cog = { build: { python_version: "3.11", ...build }, run: "predict.py:Runner" };
  const all = { "cog.yaml": JSON.stringify(cog), "predict.py": "class Runner: pass\n", ...files };
  for (const [path, text] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  const listed = await readFiles(folder, listFiles(folder));
  const source = { id: digestOf(listed), name: "model", folder, files: listed };
  const result = recipeOf(source, readModel(folder), {
    baseOf: (image) => image,
    lock: null,
    cacheScope: "operator",
    secretIds: [],
    usesTorchIndex: true,
    ...options,
  });
  if (result.kind === "failed") throw new Error(result.detail);
  return result;
}

describe("what an image is made of", () => {
  it("is Python's image, or CUDA's on a GPU, or what the host has instead", async () => {
    expect((await recipe({})).recipe.base).toBe("python:3.11-slim");
    expect((await recipe({ python_version: "3.12.4" })).recipe).toMatchObject({
      base: "python:3.12.4-slim",
      python: "3.12.4",
    });
    expect((await recipe({ gpu: true, cuda: "12.4" })).recipe.base).toMatch(
      /^nvidia\/cuda:12\.4\.1-cudnn-devel-ubuntu22\.04$/,
    );
    expect((await recipe({ gpu: true }, {}, { baseOf: () => "local/base:1" })).recipe.base).toBe("local/base:1");
  });

  it("has the wheels of torch that go with the base, and another index only where it is reached", async () => {
    const files = { "requirements.txt": "torch==2.4.1\n" };
    const build = { gpu: true, python_requirements: "requirements.txt" };
    const made = await recipe(build, files);
    expect(made.recipe.requirements).toContain("--extra-index-url https://download.pytorch.org/whl/cu124\n");
    expect(made.recipe.constraints).toContain("torch==2.4.1");
    expect(made.hasTorchIndex).toBe(true);
    const without = await recipe(build, files, { usesTorchIndex: false });
    expect(without.recipe.requirements).not.toContain("pytorch.org");
  });

  it("is installed from a lock by where packages are, not by what was asked for", async () => {
    const files = {
      "requirements.txt": "--extra-index-url https://wheels.example/simple\nsix>=1.0 # any\ncog==0.9.0\n",
    };
    const build = { python_requirements: "requirements.txt" };
    expect((await recipe(build, files)).recipe.requirements).not.toContain("cog==0.9.0");
    const locked = (await recipe(build, files, { lock: "six==1.16.0\ncog==0.23.1" })).recipe;
    expect(locked).toMatchObject({
      is_locked: true,
      requirements: "--extra-index-url https://wheels.example/simple\nsix==1.16.0\ncog==0.23.1",
    });
  });

  it("takes the wheels that the requirements name into the context", async () => {
    const files = {
      "wheels/mine-1.0-py3-none-any.whl": "wheel",
      "requirements.txt": "./wheels/mine-1.0-py3-none-any.whl\nsix\n",
    };
    expect((await recipe({ python_requirements: "requirements.txt" }, files)).localFiles).toEqual([
      "wheels/mine-1.0-py3-none-any.whl",
    ]);
  });

  it("leaves out secrets that there are not, and says so", async () => {
    const mounts = ["a", "b"].map((id) => ({ type: "secret", id, target: `/run/${id}` }));
    const made = await recipe({ run: [{ command: "x", mounts }] }, {}, { secretIds: ["b"] });
    expect(made.recipe.run).toEqual([{ command: "x", mounts: [expect.objectContaining({ id: "b" })] }]);
    expect(made.warnings).toEqual([expect.stringContaining("no secret a")]);
  });
});
