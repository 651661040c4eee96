import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { EdgeClient } from "./edge-client.ts";
import { EventPush } from "./event-push.ts";
import { type AttemptKey, Journal } from "./journal.ts";
import { createLog } from "./log.ts";
import { FakeEdge } from "./testing/fake-edge.ts";
import { temporaryFolder } from "./testing/harness.ts";

const A = { prediction_id: "a".repeat(26), attempt: 1 };
const B = { prediction_id: "b".repeat(26), attempt: 1 };

describe("the event push", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  let edge: FakeEdge;
  let client: EdgeClient;
  let journal: Journal;
  let push: EventPush;
  let unwanted: AttemptKey[];
  beforeEach(async () => {
    folder = temporaryFolder();
    edge = new FakeEdge();
    await edge.listen();
    client = new EdgeClient(edge.url);
    client.setCredential({ origin_id: "o", key: edge.key });
    journal = new Journal(join(folder.path, "journal.sqlite"));
    unwanted = [];
    push = new EventPush(journal, client, createLog("silent"), (key) => unwanted.push(key));
    push.start();
  });
  afterEach(async () => {
    push.stop();
    client.close();
    await edge.close();
    journal.close();
    folder.remove();
  });

  const append = (key: AttemptKey, i: number, data = "x"): void => {
    journal.appendEvent(key, i, JSON.stringify({ i, t_ms: 0, type: "log", source: "stdout", data }), true);
    push.wake();
  };
  const stored = (key: AttemptKey, count: number): Promise<unknown> =>
    edge.until(() => edge.eventsOf(key.prediction_id).length === count, `${count} events`);
  const emptied = (): Promise<unknown> => edge.until(() => !journal.hasEvents(), "an empty journal");

  it("sends the first event at once and what came meanwhile in the next batch, for all attempts", async () => {
    edge.ackDelayMs = 100;
    append(A, 0);
    await edge.until(() => edge.batches.length === 1, "the first batch");
    for (let i = 1; i <= 5; i++) append(A, i);
    append(B, 0);
    await stored(A, 6);
    expect(edge.batches).toHaveLength(2);
    expect(edge.batches[1]?.attempts.map((part) => part.events.length)).toEqual([5, 1]);
    await emptied();
  });

  it("sends again what was stored when the answer got lost, and nothing is lost or doubled", async () => {
    edge.loseAnswers = 2;
    for (let i = 0; i < 20; i++) append(A, i);
    await stored(A, 20);
    await emptied();
    expect(edge.eventsOf(A.prediction_id).map((event) => event.i)).toEqual(Array.from({ length: 20 }, (_, i) => i));
  });

  it("keeps events while the edge is away, and sends them when it is back", async () => {
    edge.isAway = true;
    for (let i = 0; i < 5; i++) append(A, i);
    await expect.poll(() => edge.turnedAway, { timeout: 10_000 }).toBeGreaterThanOrEqual(2);
    expect(journal.hasEvents()).toBe(true);
    edge.isAway = false;
    await stored(A, 5);
  });

  it("stops and forgets an attempt that the edge fenced, and goes on with others", async () => {
    edge.outcomeOf = (key) => (key.startsWith("a") ? "fenced" : "stored");
    append(A, 0);
    append(B, 0);
    await stored(B, 1);
    await emptied();
    expect(unwanted).toMatchObject([A]);
  });

  it("sends an attempt again that the edge did not store, without holding up others", async () => {
    let tries = 0;
    edge.outcomeOf = (key) => (key.startsWith("a") && ++tries < 3 ? "retry" : "stored");
    append(A, 0);
    append(B, 0);
    await stored(B, 1);
    await stored(A, 1);
    expect(tries).toBe(3);
    await emptied();
  });

  it("sends the newest state of an instance, once", async () => {
    edge.ackDelayMs = 50;
    const status = { instance_id: "i", deployment_key: "d", version_id: "v", slots: 1, slots_busy: 0, memory_bytes: 0 };
    push.pushStatus({ ...status, state: "boot" });
    await edge.until(() => edge.batches.length === 1, "the first batch");
    push.pushStatus({ ...status, state: "setup" });
    push.pushStatus({ ...status, state: "ready" });
    await edge.until(() => edge.statuses.length === 2, "two states");
    await push.flushed(1_000);
    expect(edge.statuses.map((each) => each.state)).toEqual(["boot", "ready"]);
  });

  it("finds the one event that the edge can never take: its attempt ends with that reason, and everything else goes on", async () => {
    edge.refuses = (batch) => JSON.stringify(batch).includes("poison");
    edge.isAway = true;
    for (let i = 0; i < 6; i++) append(A, i, i === 3 ? "poison" : "x");
    for (let i = 0; i < 4; i++) append(B, i);
    const status = { instance_id: "i", deployment_key: "d", version_id: "v", slots: 1, slots_busy: 0, memory_bytes: 0 };
    push.pushStatus({ ...status, state: "ready" });
    push.pushStatus({ ...status, instance_id: "bad", state: "ready", reason: "poison" });
    edge.isAway = false;
    await stored(B, 4);
    await emptied();
    await push.flushed(1_000);
    expect(edge.eventsOf(A.prediction_id).map(({ type }) => type)).toEqual(["log", "log", "log", "finished"]);
    expect(edge.eventsOf(A.prediction_id).at(-1)).toMatchObject({
      ...{ i: 3, status: "failed", code: "origin.event_refused", error: expect.stringContaining("cannot be taken") },
    });
    expect(unwanted).toMatchObject([A]);
    expect(edge.statuses.map((each) => each.instance_id)).toEqual(["i"]);
    append(B, 4);
    await stored(B, 5);
  });

  it("does not go round for ever where even the end is refused", async () => {
    edge.refuses = (batch) => batch.attempts.some((attempt) => attempt.prediction_id === A.prediction_id);
    append(A, 0);
    append(B, 0);
    await stored(B, 1);
    await emptied();
    expect(edge.eventsOf(A.prediction_id)).toEqual([]);
  });

  it("continues where a killed process left off", async () => {
    edge.isAway = true;
    for (let i = 0; i < 5; i++) append(A, i);
    push.stop();
    journal.close();
    edge.isAway = false;
    journal = new Journal(join(folder.path, "journal.sqlite"));
    push = new EventPush(journal, client, createLog("silent"), () => {});
    push.start();
    await stored(A, 5);
    await emptied();
  });
});
