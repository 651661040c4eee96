import { spawn } from "node:child_process";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type AttemptRow, Journal } from "./journal.ts";
import { temporaryFolder } from "./testing/harness.ts";

const KEY = { prediction_id: "p".repeat(26), attempt: 1 };

function anAttempt(change: Partial<AttemptRow> = {}): AttemptRow {
  return {
    ...KEY,
    instance_id: "i",
    version_id: "v",
    state: "waiting",
    started: false,
    last_event_i: -1,
    accepted_at: 1,
    ...change,
  };
}

function logEvent(i: number, data: string): string {
  return JSON.stringify({ i, t_ms: 0, type: "log", source: "stdout", data });
}

describe("the journal", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  let path: string;
  beforeEach(() => {
    folder = temporaryFolder();
    path = join(folder.path, "journal.sqlite");
  });
  afterEach(() => folder.remove());

  it("keeps attempts and unacknowledged events over a restart, in order", () => {
    const first = new Journal(path);
    first.insertAttempt(anAttempt());
    for (let i = 0; i < 3; i++) first.appendEvent(KEY, i, logEvent(i, "x"), true);
    first.setAttemptState(KEY, "running", true);
    first.close();
    const second = new Journal(path);
    expect(second.liveAttempts()).toMatchObject([{ ...KEY, state: "running", started: true, last_event_i: 2 }]);
    expect(second.nextBatch(1e6, 100, () => false)).toMatchObject([{ ...KEY, through_i: 2 }]);
    second.acknowledge(KEY, 1);
    expect(second.nextBatch(1e6, 100, () => false)[0]?.events).toEqual([logEvent(2, "x")]);
    second.close();
  });

  it("keeps what is running over a restart, and opens one of the first release, whose processes can be ended", () => {
    const old = new DatabaseSync(path);
    old.exec(`CREATE TABLE instances (instance_id TEXT PRIMARY KEY, version_id TEXT NOT NULL, deployment_key TEXT NOT NULL,
      pid INTEGER NOT NULL, start_ticks TEXT NOT NULL, port INTEGER NOT NULL) WITHOUT ROWID;
      INSERT INTO instances VALUES ('old', 'v', 'd', 4711, '123', 5001)`);
    old.close();
    const address = { host: "127.0.0.1", port: 5001 };
    const taken = {
      record: { instance_id: "old", version_id: "v", deployment_key: "d", handle: "4711:123", address, gpus: [] },
      resume: null,
    };
    const first = new Journal(path);
    expect(first.instances()).toEqual([taken]);
    const boot = {
      protocol: 1 as const,
      instance_id: "newinstance",
      deployment_key: "d",
      version_id: "v",
      slots: 1,
      memory_bytes: 1,
      setup_timeout_ms: 1,
    };
    const saved = {
      record: { ...taken.record, instance_id: "newinstance", handle: "c0ffee", gpus: ["GPU-1"] },
      resume: { boot, files: { host: "127.0.0.1", port: 7, secret: "s" } },
    };
    first.saveInstance(saved);
    first.deleteInstance("old");
    first.close();
    const second = new Journal(path);
    expect(second.instances()).toEqual([saved]);
    second.close();
  });

  it("never loses what it said it holds when the process is killed", async () => {
    const script = `
      import { Journal } from ${JSON.stringify(fileURLToPath(new URL("./journal.ts", import.meta.url)))};
      const journal = new Journal(${JSON.stringify(path)});
      const key = ${JSON.stringify(KEY)};
      journal.insertAttempt({ ...key, instance_id: "i", version_id: "v", state: "running", started: true, last_event_i: -1, accepted_at: 1 });
      const append = (i) => {
        journal.appendEvent(key, i, JSON.stringify({ i, type: "log", data: "" }), true);
        journal.flush();
        process.stdout.write(i + "\\n", () => append(i + 1));
      };
      append(0);`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let told = "";
    child.stdout.on("data", (chunk: Buffer) => {
      told += chunk.toString();
      if (told.length > 20_000) child.kill("SIGKILL");
    });
    await new Promise((resolve) => child.once("close", resolve));
    const last = Number(told.slice(0, told.lastIndexOf("\n")).split("\n").at(-1));
    const journal = new Journal(path);
    const row = journal.attempt(KEY);
    expect(row?.last_event_i).toBeGreaterThanOrEqual(last);
    const events = journal.nextBatch(1e9, 1e9, () => false)[0]?.events ?? [];
    expect(events).toHaveLength((row?.last_event_i ?? 0) + 1);
    journal.close();
  });

  it("bounds a batch by bytes and by events, but always gives one", () => {
    const journal = new Journal(path);
    for (let i = 0; i < 10; i++) journal.appendEvent(KEY, i, logEvent(i, "x".repeat(1_000)), true);
    expect(journal.nextBatch(3_500, 100, () => false)[0]?.through_i).toBe(2);
    expect(journal.nextBatch(1e6, 4, () => false)[0]?.through_i).toBe(3);
    expect(journal.nextBatch(10, 100, () => false)[0]?.through_i).toBe(0);
    journal.close();
  });

  it("leaves held attempts out and goes on with others", () => {
    const journal = new Journal(path);
    const other = { prediction_id: "q".repeat(26), attempt: 2 };
    journal.appendEvent(KEY, 0, logEvent(0, "a"), true);
    journal.appendEvent(other, 0, logEvent(0, "b"), true);
    const batch = journal.nextBatch(1e6, 100, (key) => key.prediction_id === KEY.prediction_id);
    expect(batch).toMatchObject([other]);
    journal.close();
  });

  it("above its bound empties the oldest log lines and leaves no gap", () => {
    const journal = new Journal(path, { eventBytesMax: 50_000 });
    for (let i = 0; i < 100; i++) {
      journal.appendEvent(KEY, i, logEvent(i, "x".repeat(1_000)), true);
      journal.flush();
    }
    journal.appendEvent(KEY, 100, JSON.stringify({ i: 100, type: "finished" }), false);
    const [attempt] = journal.nextBatch(1e9, 1e9, () => false);
    const events = (attempt?.events ?? []).map((event) => JSON.parse(event));
    expect(journal.eventBytes).toBeLessThanOrEqual(50_000 + 2_000);
    expect(events.map((event) => event.i)).toEqual(Array.from({ length: 101 }, (_, i) => i));
    expect(events[0].data).toBe("");
    expect(events[99].data).toHaveLength(1_000);
    journal.close();
  });

  it("forgets ended attempts of yesterday whose events were acknowledged, and no others", () => {
    const journal = new Journal(path);
    const late = { prediction_id: "l".repeat(26), attempt: 1 };
    journal.insertAttempt(anAttempt({ state: "finished" }));
    journal.insertAttempt(anAttempt({ ...late, state: "finished" }));
    journal.appendEvent(late, 0, JSON.stringify({ i: 0, type: "finished" }), false);
    journal.sweepAttempts(Date.now());
    expect(journal.attempt(KEY)).toBeNull();
    expect(journal.attempt(late)).not.toBeNull();
    journal.close();
  });
});
