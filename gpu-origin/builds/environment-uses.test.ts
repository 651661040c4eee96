import { existsSync, mkdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { temporaryFolder } from "../testing/harness.ts";
import { EnvironmentUses } from "./environment-uses.ts";

describe("environments of the cache", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
  });
  afterEach(() => folder.remove());

  const hours = (count: number): Date => new Date(Date.now() - count * 3_600_000);
  function anEnvironment(key: string, usedAt: Date): void {
    mkdirSync(join(folder.path, key));
    writeFileSync(join(folder.path, key, "whole"), "");
    utimesSync(join(folder.path, key, "whole"), usedAt, usedAt);
  }
  const left = (keys: string[]): string[] => keys.filter((key) => existsSync(join(folder.path, key)));

  it("go beyond a number, those first that were used longest ago; none that is held, was used lately or is being made", async () => {
    const keys = ["a", "b", "c", "d", "e"];
    for (const [index, key] of keys.entries()) anEnvironment(key, hours(100 - index));
    mkdirSync(join(folder.path, "made"));
    const uses = new EnvironmentUses(folder.path, "whole", 2);
    uses.touch("b");
    const release = uses.hold("a");
    await uses.sweep();
    expect(left([...keys, "made"])).toEqual(["a", "b", "made"]);
    release();
    release();
    await uses.sweep();
    expect(left(keys)).toEqual(["a", "b"]);
  });

  it("stay while there are few, however old they are", async () => {
    for (const key of ["a", "b"]) anEnvironment(key, hours(1_000));
    await new EnvironmentUses(folder.path, "whole", 2).sweep();
    expect(left(["a", "b"])).toEqual(["a", "b"]);
  });
});
