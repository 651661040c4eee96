import { describe, expect, it } from "vitest";
import { Alarms, nextAlarm } from "./alarms.ts";
import { freshName, passTime, START, stopClockInEachTest, withObject } from "./testing/harness.ts";

type Name = "a" | "b";

/** Runs `test` with deadlines over real storage; `restart` drops their memory. */
function withAlarms(
  test: (alarms: Alarms<Name>, state: DurableObjectState, restart: () => Alarms<Name>) => Promise<void>,
): Promise<void> {
  return withObject("FLEETS", freshName(), (state) => {
    const restart = () => new Alarms<Name>(state.storage);
    return test(restart(), state, restart);
  });
}

stopClockInEachTest();

describe("deadlines", () => {
  it("guarantees that the alarm rings for the earliest, over a restart", () =>
    withAlarms(async (alarms, state, restart) => {
      alarms.set("b", START + 2_000);
      alarms.set("a", START + 1_000);
      expect(await state.storage.getAlarm()).toBe(START + 1_000);
      restart().clear("a");
      expect(await state.storage.getAlarm()).toBe(START + 2_000);
      const again = restart();
      again.setNoLaterThan("b", START + 3_000);
      expect(again.get("b")).toBe(START + 2_000);
      again.clear("b");
      expect(await state.storage.getAlarm()).toBeNull();
    }));

  it("guarantees that what is due is handled once, and what is not stays", () =>
    withAlarms(async (alarms, _state, restart) => {
      alarms.set("a", START + 1_000);
      alarms.set("b", START + 2_000);
      passTime(1_000);
      const handled: Name[] = [];
      await alarms.run((name) => {
        handled.push(name);
      });
      await restart().run((name) => {
        handled.push(name);
      });
      expect(handled).toEqual(["a"]);
      expect(restart().get("b")).toBe(START + 2_000);
    }));

  it("guarantees that a handler may set its own deadline again, even to the same time", () =>
    withAlarms(async (alarms) => {
      for (const next of [START + 9_000, START]) {
        alarms.set("a", START);
        await alarms.run((name) => alarms.setNoLaterThan(name, next));
        expect(alarms.get("a")).toBeGreaterThanOrEqual(next);
        alarms.clear("a");
      }
    }));

  it("guarantees that a failed handler runs again after a pause, hurts no other, and lets nothing out", () =>
    withAlarms(async (alarms, _state, restart) => {
      alarms.set("a", START);
      alarms.set("b", START);
      const handled: Name[] = [];
      const fail = (name: Name) => {
        handled.push(name);
        if (name === "a") throw new Error("broken");
      };
      await alarms.run(fail);
      expect(handled.sort()).toEqual(["a", "b"]);
      expect(alarms.get("a")).toBe(START + 1_000);
      passTime(1_000);
      await alarms.run(fail);
      expect(restart().get("a")).toBe(START + 3_000);
    }));

  it("guarantees that a crash inside a handler leaves the deadline", () =>
    withAlarms(async (alarms, _state, restart) => {
      alarms.set("a", START);
      // A handler that never returns stands for a crash: the process that follows finds the deadline as it was.
      void alarms.run(() => new Promise(() => {}));
      expect(restart().get("a")).toBe(START);
    }));
});

describe("nextAlarm", () => {
  it("guarantees the earliest, and none for none", () => {
    expect(nextAlarm([3, 1, 2])).toBe(1);
    expect(nextAlarm([])).toBeNull();
  });
});
