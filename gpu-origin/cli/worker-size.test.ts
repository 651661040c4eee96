import { describe, expect, it } from "vitest";
import { GZIP_KIB_MAX, START_MS_MAX, sizeFault, startFault, startMs } from "./worker-size.ts";

describe("the size of the Worker", () => {
  it("is read from the dry run, up to the bound and not beyond", () => {
    expect(sizeFault("Total Upload: 2350.23 KiB / gzip: 499.55 KiB\n")).toBeNull();
    expect(sizeFault(`gzip: ${GZIP_KIB_MAX}.00 KiB`)).toBeNull();
    expect(sizeFault(`gzip: ${GZIP_KIB_MAX}.01 KiB`)).toContain("take it out");
    expect(sizeFault("it failed")).toContain("said no size");
  });
});

describe("the start of the Worker", () => {
  it("is the time that it works, of the fastest try", () => {
    expect(startMs("│   Sampled time: 299.6 ms\n│   Active: 180.9 ms (including 17.1 ms garbage collection)\n")).toBe(
      180.9,
    );
    expect(startMs("it failed")).toBeNull();
    expect(startFault([900, START_MS_MAX, 700])).toBeNull();
    expect(startFault([900, START_MS_MAX + 1])).toContain("profile");
  });
});
