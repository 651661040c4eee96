import { describe, expect, it } from "vitest";
import { BuildProgress } from "./buildkit-progress.ts";

function watched(): { progress: BuildProgress; steps: string[]; lines: string[] } {
  const steps: string[] = [];
  const lines: string[] = [];
  const progress = new BuildProgress({
    onStep: (name, isCached) => steps.push(isCached ? `${name} (cached)` : name),
    onLine: (line) => lines.push(line),
  });
  return { progress, steps, lines };
}

/** A field of a protobuf message. */
function field(id: number, value: string | Buffer | boolean): Buffer {
  if (typeof value === "boolean") return Buffer.from([id << 3, value ? 1 : 0]);
  const bytes = Buffer.from(value);
  const length: number[] = [];
  for (let left = bytes.length; ; left >>= 7) {
    length.push(left > 127 ? (left & 127) | 128 : left);
    if (left <= 127) break;
  }
  return Buffer.concat([Buffer.from([(id << 3) | 2, ...length]), bytes]);
}

const TIME = field(5, Buffer.from([8, 1]));
const vertex = (digest: string, name: string, ...more: Buffer[]): Buffer =>
  field(1, Buffer.concat([field(1, digest), field(3, name), ...more]));
const log = (digest: string, message: string | Buffer): Buffer =>
  field(3, Buffer.concat([field(1, digest), field(4, message)]));
const trace = (...parts: Buffer[]): string =>
  JSON.stringify({ id: "moby.buildkit.trace", aux: Buffer.concat(parts).toString("base64") });

describe("BuildKit's progress", () => {
  it("tells steps as they begin, from the cache or not, and their lines whole, however they come", () => {
    const { progress, steps, lines } = watched();
    progress.read(trace(vertex("a", "first", TIME, field(4, true)), vertex("b", "second")));
    progress.read(trace(vertex("b", "second", TIME)));
    const bytes = Buffer.from("grüße\nun");
    progress.read(trace(log("b", bytes.subarray(0, 3))));
    progress.read(trace(log("b", bytes.subarray(3))));
    progress.read(trace(log("b", "finished")));
    progress.end();
    expect(steps).toEqual(["first (cached)", "second"]);
    expect(lines).toEqual(["grüße", "unfinished"]);
  });

  it("says which step failed, with the last lines of that step alone", () => {
    const { progress } = watched();
    progress.read(trace(vertex("a", "good", TIME), vertex("b", "bad", TIME), log("a", "of a\n")));
    for (let index = 0; index < 40; index++) progress.read(trace(log("b", `line ${index}\n`)));
    progress.read(
      trace(vertex("b", "bad", field(7, "exit code: 1")), vertex("a", "good", field(7, "context canceled"))),
    );
    progress.read(JSON.stringify({ errorDetail: { message: "failed: exit code: 1" }, error: "failed: exit code: 1" }));
    expect(progress.failure?.step).toBe("bad");
    expect(progress.failure?.tail).toHaveLength(12);
    expect(progress.failure?.tail.at(-1)).toBe("line 39");
    expect(progress.error).toBe("failed: exit code: 1");
  });

  it("knows the image, and leaves out what it does not understand", () => {
    const { progress, lines } = watched();
    for (const line of [
      "",
      "{",
      "[]",
      JSON.stringify({ id: "moby.buildkit.trace", aux: "////" }),
      JSON.stringify({ id: "moby.image.id", aux: 5 }),
    ])
      progress.read(line);
    progress.read(JSON.stringify({ id: "moby.image.id", aux: { ID: "sha256:abc" } }));
    expect(progress.imageId).toBe("sha256:abc");
    expect(lines).toEqual([]);
  });
});
