import { describe, expect, it } from "vitest";
import { doingOf, instancesInWords, isMoving, totalInWords } from "./model-doing.ts";

const idle = { state: "ready" as const, queue_length: 0, running: 0, instances: {} };

describe("what a model does", () => {
  it.each([
    [idle, "idle", false],
    [{ ...idle, instances: { ready: 1, boot: 1 } }, "online", false],
    [{ ...idle, instances: { setup: 1 } }, "booting", true],
    [{ ...idle, instances: { draining: 1 } }, "idle", false],
    [{ ...idle, queue_length: 2 }, "queued", true],
    [{ ...idle, running: 1, instances: { ready: 1 } }, "online", true],
    [{ ...idle, state: "paused" as const, instances: { ready: 1 } }, "paused", false],
    [{ ...idle, state: "failed" as const }, "failed", false],
    [{ ...idle, state: "preparing" as const }, "preparing", false],
  ] as const)("%j is %s", (model, doing, moves) => {
    expect(doingOf(model)).toBe(doing);
    expect(isMoving(model)).toBe(moves);
  });

  it("names its instances, those that serve first", () => {
    expect(instancesInWords({ boot: 1, ready: 2, reborn: 3, setup: 0 })).toBe("2 ready, 1 booting, 3 reborn");
    expect(instancesInWords({})).toBe("no instance");
  });

  it("is summed up over all", () => {
    const busy = { ...idle, queue_length: 1_200, running: 2, instances: { ready: 2 } };
    expect(totalInWords([idle, busy])).toBe("2 models, 1 online, 1,200 waiting, 2 running");
  });
});
