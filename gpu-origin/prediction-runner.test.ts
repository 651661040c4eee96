import { existsSync, readFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import { LOG_TAIL_MAX, PREDICTION_LOG_MAX } from "./log-budget.ts";
import { type Outcome, TestOrigin } from "./testing/harness.ts";

const MODELS = [
  "noop",
  "tokens",
  "concurrent",
  "crash",
  "slow",
  "uncancellable",
  "flood",
  "environment",
  "broken-setup",
  "secrets",
];

describe("a prediction on real coglet", () => {
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start(MODELS);
  }, 240_000);
  afterEach(() => origin.releaseInstances());
  afterAll(() => origin.stop());

  it("runs and tells the edge in order: started, logs and output, finished", async () => {
    const instance = await origin.boot("tokens");
    const outcome = await origin.predict("tokens", instance, { count: 3 });
    const output = ["t0 ", "t1 ", "t2 "];
    expect(outcome).toMatchObject({ status: "succeeded", output, logs: "first line\nlast line\n" });
    expect(outcome.events.map((event) => event.i)).toEqual(outcome.events.map((_, i) => i));
    const types = ["started", "log", "output", "output", "output", "log", "finished"];
    expect(outcome.events.map((event) => event.type)).toEqual(types);
  });

  it.each([false, true])("keeps a secret out of what the model prints and fails with (fails: %s)", async (fail) => {
    const instance = await origin.boot("secrets");
    const outcome = await origin.predict("secrets", instance, { key: "hunter2-hunter2", fail });
    expect(outcome.status).toBe(fail ? "failed" : "succeeded");
    expect(outcome.logs).toContain("using [REDACTED] now\n");
    if (fail) expect(outcome.events.at(-1)).toMatchObject({ error: "ValueError: [REDACTED] was refused" });
    expect(JSON.stringify(outcome)).not.toContain("hunter2");
  });

  it("gives the output of a plain function as one value (its schema is marked as streaming for coglet only)", async () => {
    const instance = await origin.boot("noop");
    const outcome = await origin.predict("noop", instance, { text: "ab", times: 2 });
    expect(outcome).toMatchObject({ status: "succeeded", output: "abab" });
    expect(outcome.events.filter((event) => event.type === "output")).toHaveLength(1);
    expect(outcome.predict_time_s).toBeGreaterThan(0);
    const announced = origin.edge.announces.get("noop")?.at(-1)?.version?.openapi_schema;
    expect(JSON.stringify(announced)).not.toContain("x-cog-streaming");
  });

  it("streams tokens live: the first is stored long before the last is made", async () => {
    const instance = await origin.boot("tokens");
    const id = await origin.send("tokens", instance, { count: 10, pause_s: 0.1 });
    await origin.edge.until(() => origin.edge.eventsOf(id).some((event) => event.type === "output"), "the first token");
    expect(origin.edge.eventsOf(id).length).toBeLessThan(6);
    expect((await origin.untilFinished(id)).status).toBe("succeeded");
  });

  describe("trap 1: coglet answers before its slot is free", () => {
    it("serves predictions back to back without a refusal, first in first out", async () => {
      const instance = await origin.boot("noop");
      const ids: string[] = [];
      for (let i = 0; i < 60; i++) ids.push(await origin.send("noop", instance, { text: String(i) }));
      for (const id of ids) expect((await origin.untilFinished(id)).status).toBe("succeeded");
      const order = origin.edge.batches
        .flatMap((batch) => batch.attempts)
        .filter((part) => ids.includes(part.prediction_id) && part.events.some((event) => event.type === "finished"))
        .map((part) => part.prediction_id);
      expect(order).toEqual(ids);
    });
  });

  describe("trap 2: a dead worker is never started again by coglet", () => {
    it.each(["exit", "segv", "kill"])(
      "fails only the prediction that crashed (%s), with its own last lines; the next one runs",
      async (how) => {
        const instance = await origin.boot("crash");
        // A line that is printed in the last millisecond dies with the worker now and then, before coglet has it.
        const crashed = await origin.predict("crash", instance, { how, pause_s: 0.1 });
        expect(crashed).toMatchObject({ status: "failed", code: "model.crashed", logs: `about to ${how}\n` });
        const next = await origin.predict("crash", instance, {});
        expect(next).toMatchObject({ status: "succeeded" });
      },
    );

    it("tells that the instance restarts, and that it is ready again, under the same id", async () => {
      const instance = await origin.boot("crash");
      const since = origin.edge.statuses.length;
      await origin.predict("crash", instance, { how: "exit" });
      const boot = await origin.untilState(instance, ["boot"], since);
      expect(boot.reason).toContain("worker");
      await origin.untilState(instance, ["ready"], since);
    });

    it("runs a prediction that comes after the idle worker died, without a failure in between", async () => {
      const instance = await origin.boot("crash");
      const { output } = await origin.predict("crash", instance, {});
      process.kill(Number(output), "SIGKILL");
      // One that is sent before coglet itself has seen the death may have reached the worker, and fails.
      const saved = origin.origin.journal.instances().find(({ record }) => record.instance_id === instance);
      const port = saved?.record.address.port;
      const health = (): Promise<string> =>
        fetch(`http://127.0.0.1:${port}/health-check`).then((answer) => answer.text());
      await expect.poll(health).toContain("UNHEALTHY");
      const next = await origin.predict("crash", instance, {});
      expect(next.status).toBe("succeeded");
      expect(next.output).not.toBe(output);
      expect(next.events.filter((event) => event.type === "started")).toHaveLength(1);
    });

    it("backs off in a row of crashes and says so", async () => {
      const instance = await origin.boot("crash");
      const since = origin.edge.statuses.length;
      await origin.predict("crash", instance, { how: "exit" });
      await origin.predict("crash", instance, { how: "exit" });
      const said = await origin.edge.until(
        () =>
          origin.edge.statuses.slice(since).find((s) => s.instance_id === instance && s.reason?.includes("in a row")),
        "the reason",
      );
      expect(said.reason).toContain("2 times in a row");
    });
  });

  it("trap 3: validates by the schema file, so a wrong input fails with words instead of a TypeError", async () => {
    const instance = await origin.boot("noop");
    const outcome = await origin.predict("noop", instance, { times: "many" });
    expect(outcome).toMatchObject({ status: "failed", code: "input.refused" });
    expect(outcome.error).toContain("integer");
  });

  it("trap 4: drops an explicit null of an optional input", async () => {
    const instance = await origin.boot("noop");
    expect(await origin.predict("noop", instance, { note: null })).toMatchObject({ status: "succeeded" });
  });

  it("trap 6: gives an asynchronous model as many slots as its decorator says, live and side by side", async () => {
    expect(origin.version("concurrent").slots).toBe(4);
    const instance = await origin.boot("concurrent");
    const ids: string[] = [];
    for (const name of ["a", "b", "c", "d"]) ids.push(await origin.send("concurrent", instance, { name, count: 10 }));
    for (const id of ids) await origin.untilFinished(id);
    const spans = ids.map((id) => spanOf(origin.outcome(id)));
    expect(Math.max(...spans.map((span) => span.first))).toBeLessThan(Math.min(...spans.map((span) => span.last)));
  });

  it("trap 7: keeps logs and output of a failed prediction, and strips the doubled prefix from its error", async () => {
    const instance = await origin.boot("tokens");
    const outcome = await origin.predict("tokens", instance, { count: 5, fail_at: 2 });
    expect(outcome).toMatchObject({ status: "failed", output: ["t0 ", "t1 "], logs: "first line\n" });
    expect(outcome.error).toBe("RuntimeError: broke in the middle");
    expect(outcome.code).toBeUndefined();
    const raising = await origin.boot("crash");
    expect(await origin.predict("crash", raising, { how: "raise" })).toMatchObject({ error: "ValueError: boom" });
  });

  it("trap 8: drains an instance without losing what runs on it", async () => {
    const instance = await origin.boot("concurrent");
    const id = await origin.send("concurrent", instance, { count: 10 });
    await origin.edge.until(() => origin.edge.eventsOf(id).length > 1, "the first token");
    await origin.edge.call("POST", `/v1/instances/${instance}/drain`, { reason: "idle", grace_ms: 10_000 });
    expect((await origin.untilFinished(id)).status).toBe("succeeded");
    await origin.untilState(instance, ["stopped"]);
  });

  it("trap 9: delivers a burst of tokens once each, in order", async () => {
    const instance = await origin.boot("flood");
    const { status, output } = await origin.predict("flood", instance, { tokens: 20_000 });
    expect(status).toBe("succeeded");
    expect(output).toEqual(Array.from({ length: 20_000 }, (_, i) => `${i} `));
  });

  it("trap 10: gives coglet only ids of letters and digits, and removes their folders", async () => {
    const refused = await origin.edge.call("PUT", "/v1/attempts/..%2F..%2Fetc/1", {});
    expect(refused.status).toBe(400);
    const instance = await origin.boot("noop");
    const { id } = await origin.predict("noop", instance, {});
    await expect.poll(() => existsSync(`/tmp/coglet/predictions/${id}a1`)).toBe(false);
  });

  it("trap 11: an asynchronous model streams live by its token metric, which is not a metric at the end", async () => {
    const instance = await origin.boot("concurrent");
    const id = await origin.send("concurrent", instance, { name: "x", count: 5, pause_s: 0.1 });
    await origin.edge.until(() => origin.edge.eventsOf(id).some((event) => event.type === "output"), "the first token");
    expect(origin.edge.eventsOf(id).some((event) => event.type === "finished")).toBe(false);
    await origin.untilFinished(id);
    const outcome = origin.outcome(id);
    const tokens = outcome.events.flatMap((event) =>
      event.type === "output" && event.mode === "append" ? [event.value] : [],
    );
    expect(tokens).toEqual(["x0 ", "x1 ", "x2 ", "x3 ", "x4 "]);
    // The final value is the function's own, and silent, since its tokens were shown.
    const final = outcome.events.findLast((event) => event.type === "output");
    expect(final).toMatchObject({ mode: "set", value: "x0 x1 x2 x3 x4 ", silent: true });
    expect(outcome.metrics).not.toHaveProperty("token");
    expect(outcome.metrics).toMatchObject({ words: 5 });
    expect(outcome.events.filter((event) => event.type === "metric").map((event) => event.name)).toEqual([
      "words",
      "words",
    ]);
  });

  describe("trap 12: raw coglet starves callers", () => {
    it("serves 64 callers of one slot in turn: the last waits little longer than its fair share", async () => {
      const instance = await origin.boot("slow");
      const ids = Array.from({ length: 64 }, () => newId(26));
      await Promise.all(ids.map((id) => origin.send("slow", instance, { seconds: 0.01 }, { id })));
      await Promise.all(ids.map((id) => origin.untilFinished(id, 30_000)));
      const ends = ids.map((id) => origin.outcome(id).t_ms).toSorted((a, b) => a - b);
      const gaps = ends.slice(1).map((end, i) => end - (ends[i] ?? 0));
      // Each runs 10 ms and a little; one that was passed over would leave no gap but come last by far.
      expect(Math.max(...gaps)).toBeLessThan(1_000);
    });
  });

  describe("cancel", () => {
    it("ends a running one politely, and tells it by the last event", async () => {
      const instance = await origin.boot("slow");
      const id = await origin.send("slow", instance, { seconds: 30 });
      await origin.edge.until(() => origin.edge.eventsOf(id).some((event) => event.type === "log"), "its first line");
      expect((await origin.cancel(id, 5_000)).status).toBe(202);
      expect(await origin.untilFinished(id, 4_000)).toMatchObject({ status: "canceled" });
      expect(await origin.predict("slow", instance, { seconds: 0 })).toMatchObject({ status: "succeeded" });
    });

    it("kills one that does not stop, and the instance serves the next", async () => {
      const instance = await origin.boot("uncancellable");
      const before = await origin.predict("uncancellable", instance, {});
      const id = await origin.send("uncancellable", instance, { seconds: 60 });
      await origin.edge.until(() => origin.edge.eventsOf(id).length > 0, "its start");
      await origin.cancel(id, 300);
      expect(await origin.untilFinished(id, 5_000)).toMatchObject({ status: "canceled" });
      expect(isAlive(Number(before.output))).toBe(false);
      const after = await origin.predict("uncancellable", instance, {});
      expect(after.output).not.toBe(before.output);
    });

    it("on several slots ends one that blocks them all, and its neighbour ends in peace", async () => {
      const instance = await origin.boot("concurrent");
      const stubborn = await origin.send("concurrent", instance, { name: "s", count: 3, block_s: 3 });
      const neighbour = await origin.send("concurrent", instance, { name: "n", count: 40 });
      await origin.edge.until(() => origin.edge.eventsOf(stubborn).length > 0, "its start");
      await origin.cancel(stubborn, 200);
      expect(await origin.untilFinished(stubborn, 2_000)).toMatchObject({ status: "canceled" });
      expect(await origin.untilFinished(neighbour)).toMatchObject({ status: "succeeded" });
    });

    it("ends one that waits for a slot at once, without a start", async () => {
      const instance = await origin.boot("slow");
      const first = await origin.send("slow", instance, { seconds: 2 });
      const second = await origin.send("slow", instance, { seconds: 2 });
      await origin.cancel(second, 5_000);
      expect(await origin.untilFinished(second, 1_000)).toMatchObject({ status: "canceled" });
      expect(origin.edge.eventsOf(second).map((event) => event.type)).toEqual(["finished"]);
      await origin.cancel(first, 5_000);
      await origin.untilFinished(first);
    });

    it("guards the deadline itself when the edge does not", async () => {
      const instance = await origin.boot("slow");
      const id = await origin.send("slow", instance, { seconds: 60 }, { deadline_ms: 100 });
      expect(await origin.untilFinished(id, 8_000)).toMatchObject({ status: "canceled" });
    });
  });

  it("starts an attempt once, however often it is sent, also after its end", async () => {
    const instance = await origin.boot("tokens");
    const id = newId(26);
    await Promise.all([1, 2, 3].map(() => origin.send("tokens", instance, { count: 2 }, { id })));
    await origin.untilFinished(id);
    await origin.send("tokens", instance, { count: 2 }, { id });
    expect(origin.outcome(id).output).toEqual(["t0 ", "t1 "]);
    const state = await origin.edge.call("GET", `/v1/attempts/${id}/1`);
    expect(state.body).toMatchObject({ state: "finished", started: true, last_event_i: 5 });
    const unknown = await origin.edge.call("GET", `/v1/attempts/${newId(26)}/1`);
    expect(unknown).toMatchObject({ status: 404, body: { code: "attempt.unknown" } });
  });

  it("keeps a mebibyte of a flood of log lines, says what it cut, and keeps the last lines", async () => {
    const instance = await origin.boot("flood");
    const { logs, status, error } = await origin.predict("flood", instance, { lines: 40_000 });
    expect({ status, error }).toEqual({ status: "succeeded", error: undefined });
    expect(logs.length).toBeLessThan(PREDICTION_LOG_MAX + LOG_TAIL_MAX);
    expect(logs.match(/\[cogway\]/g)).toHaveLength(2);
    expect(logs).toContain("line 0 ");
    expect(logs.trimEnd().split("\n").at(-1)).toContain("line 39999 ");
  });

  it("fails a setup with its class and words, and the traceback in the instance's logs", async () => {
    const instance = await origin.boot("broken-setup", ["failed"]);
    const status = await origin.untilState(instance, ["failed"]);
    expect(status.reason).toBe("setup: RuntimeError: the weights are missing");
    expect(status.logs).toContain("loading the weights");
  });

  it("gives a model its own variables, folders and nothing of ours", async () => {
    const instance = await origin.boot("environment");
    const { output } = await origin.predict("environment", instance, {});
    const { env, tmp } = output as { env: Record<string, string>; tmp: string };
    expect(env).toMatchObject({ GREETING: "hello=world", HF_HUB_OFFLINE: "1", COG_MAX_CONCURRENCY: "1" });
    expect(Object.keys(env).filter((name) => name.startsWith("COGWAY") || name.startsWith("VITEST"))).toEqual([]);
    expect(tmp).toContain(instance);
    const ready = await origin.untilState(instance, ["ready"]);
    expect(ready.logs).toContain("setting up");
    expect(ready.setup_ms).toBeGreaterThanOrEqual(0);
  });

  it("tells an instance that it does not know from one that it does", async () => {
    await expect(origin.send("noop", newId(16), {})).rejects.toThrow("instance.unknown");
  });
});

function spanOf(outcome: Outcome): { first: number; last: number } {
  // t_ms counts from the acceptance of each; they were accepted within milliseconds of each other.
  const times = outcome.events.filter((event) => event.type === "output").map((event) => event.t_ms);
  return { first: times[0] ?? Number.NaN, last: times.at(-1) ?? Number.NaN };
}

function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
  } catch {
    return false;
  }
}
