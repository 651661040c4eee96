import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TestOrigin } from "./testing/harness.ts";

describe("a prediction on real coglet", () => {
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start(["noop", "tokens"]);
  }, 240_000);
  afterAll(() => origin.stop());

  it("runs and tells the edge in order: started, logs and output, finished", async () => {
    const instance = await origin.boot("tokens");
    const outcome = await origin.predict("tokens", instance, { count: 3 });
    expect(outcome).toMatchObject({
      status: "succeeded",
      output: ["t0 ", "t1 ", "t2 "],
      logs: "first line\nlast line\n",
    });
    expect(outcome.events.map((event) => event.i)).toEqual(outcome.events.map((_, i) => i));
    expect(outcome.events.map((event) => event.type)).toEqual([
      "started",
      "log",
      "output",
      "output",
      "output",
      "log",
      "finished",
    ]);
  });

  it("gives the output of a plain function as one value", async () => {
    const instance = await origin.boot("noop");
    const outcome = await origin.predict("noop", instance, { text: "ab", times: 2, note: null });
    expect(outcome).toMatchObject({ status: "succeeded", output: "abab" });
    expect(outcome.events.filter((event) => event.type === "output")).toHaveLength(1);
    expect(outcome.predict_time_s).toBeGreaterThan(0);
  });
});
