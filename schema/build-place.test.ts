import { describe, expect, it } from "vitest";
import { decideBuildPlace } from "./build-place.ts";

describe("decideBuildPlace", () => {
  const process = {
    origin_id: "p",
    is_open: true,
    runs: { packages: ["source" as const], untrusted: false },
    builds: 0,
  };
  const docker = { ...process, origin_id: "d", runs: { packages: ["source" as const], untrusted: true }, builds: 2 };
  const ask = (is_trusted: boolean, origins: (typeof process)[], except: string[] = []) =>
    decideBuildPlace({ is_trusted, except }, origins);

  it("guarantees that a build goes to who builds least, of those that may take it", () => {
    expect(ask(true, [docker, process])).toEqual({ origin_id: "p" });
    expect(ask(false, [docker, process])).toEqual({ origin_id: "d" });
    expect(ask(true, [docker, process], ["p"])).toEqual({ origin_id: "d" });
    expect(ask(true, [{ ...process, is_open: false }])).toEqual({ refused: "No origin is connected." });
    expect(ask(false, [process])).toMatchObject({ refused: expect.stringContaining("COGWAY_DRIVER=docker") });
    expect(ask(true, [process], ["p"])).toMatchObject({ refused: expect.stringContaining("cannot be reached") });
  });
});
