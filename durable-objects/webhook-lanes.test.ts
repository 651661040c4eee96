/** Endpoints that hang take nothing from those that answer: first alone, then under the whole object. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { stopClock } from "./testing/harness.ts";
import { aCreate, events, output, started, succeeded, withPredictions } from "./testing/prediction-world.ts";
import { Receiver } from "./testing/receiver.ts";
import { WebhookLanes } from "./webhook-lanes.ts";

/** Calls that a test ends by hand. */
class Calls {
  readonly lanes = new WebhookLanes();
  readonly open = new Map<string, ((isAnswered: boolean) => void)[]>();
  started = 0;

  add(url: string): Promise<void> {
    return this.lanes.run(url, () => {
      this.started += 1;
      return new Promise<boolean>((resolve) => {
        this.open.set(url, [...(this.open.get(url) ?? []), resolve]);
      });
    });
  }

  end(url: string, isAnswered: boolean): void {
    for (const resolve of this.open.get(url)?.splice(0) ?? []) resolve(isAnswered);
  }

  count(url: string): number {
    return this.open.get(url)?.length ?? 0;
  }
}

describe("an endpoint", () => {
  it("gets one call until it answers, more while it does, and one again when it stops", async () => {
    const calls = new Calls();
    const url = "https://a.test/hook";
    for (let n = 0; n < 100; n++) void calls.add(`${url}?n=${n}`);
    const openNow = (): number => [...calls.open.values()].reduce((sum, list) => sum + list.length, 0);
    const endAll = (isAnswered: boolean): void => {
      for (const each of calls.open.keys()) calls.end(each, isAnswered);
    };
    await expect.poll(openNow).toBe(1);
    const seen: number[] = [];
    for (let n = 0; n < 6; n++) {
      endAll(true);
      await expect.poll(openNow).toBeGreaterThan(0);
      seen.push(openNow());
    }
    expect(seen).toEqual([2, 4, 8, 8, 8, 8]);
    endAll(false);
    await expect.poll(openNow).toBe(1);
  });

  it("that hangs holds no place of another, of its host or of another host", async () => {
    const calls = new Calls();
    for (let n = 0; n < 60; n++) void calls.add(`https://a.test/hangs/${n}`);
    for (let n = 0; n < 300; n++) void calls.add("https://a.test/dead");
    void calls.add("https://a.test/fine");
    void calls.add("https://b.test/fine");
    await expect.poll(() => calls.count("https://a.test/fine")).toBe(1);
    expect(calls.count("https://b.test/fine")).toBe(1);
    expect(calls.count("https://a.test/dead")).toBe(1);
  });

  it("that did not answer shares half of its host's places with its like", async () => {
    const calls = new Calls();
    const url = (n: number): string => `https://a.test/${n}`;
    const rounds = 64;
    for (let n = 0; n < rounds; n++) void calls.add(url(n));
    await expect.poll(() => calls.started).toBe(rounds);
    for (let n = 0; n < rounds; n++) calls.end(url(n), false);
    for (let n = 0; n < rounds; n++) void calls.add(url(n));
    await expect.poll(() => calls.started).toBe(rounds + rounds / 2);
    void calls.add("https://a.test/new");
    await expect.poll(() => calls.count("https://a.test/new")).toBe(1);
  });
});

describe("half of the endpoints hanging", () => {
  beforeEach(stopClock);
  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("delays no first call of the others", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const hanging: ((response: Response) => void)[] = [];
      receiver.answer = ({ url }) =>
        url.includes("/dead/") ? new Promise((resolve) => hanging.push(resolve)) : new Response("ok");
      const requests = Array.from({ length: 120 }, (_, n) =>
        aCreate({
          webhook: `https://receiver.test/${n % 2 === 0 ? "dead" : "fine"}/${Math.floor(n / 4)}`,
          webhook_events_filter: ["completed"],
        }),
      );
      await Promise.all(requests.map((request) => world.object.create(request)));
      const begun = performance.now();
      await Promise.all(requests.map(({ id }) => world.send(id, 1, events(0, started, output("a"), succeeded))));
      const fine = (): number => receiver.calls.filter(({ url }) => url.includes("/fine/")).length;
      await vi.waitFor(() => expect(fine()).toBe(60), { timeout: 15_000, interval: 20 });
      // They were all called while every hanging endpoint had its first call open still.
      expect(hanging).toHaveLength(30);
      expect(performance.now() - begun).toBeLessThan(15_000);
      receiver.answer = () => new Response("ok");
      for (const resolve of hanging) resolve(new Response("ok"));
      await world.idle();
      expect(receiver.calls).toHaveLength(120);
    }));
});
