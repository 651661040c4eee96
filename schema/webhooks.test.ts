import { describe, expect, it } from "vitest";
import { userUrlFault } from "./public-url.ts";
import {
  errorOfStatus,
  isWanted,
  nextAttemptAt,
  parseRetryAfter,
  WEBHOOK_BODY_BYTES_MAX,
  WEBHOOK_GIVE_UP_MS,
  webhookBody,
  webhookKey,
} from "./webhooks.ts";

const failure = { now: 1_000_000, error: "status", retryAfterMs: null } as const;

describe("the schedule", () => {
  it("has the published pauses, each within 10 %, and 12 attempts", () => {
    const pauses = [1, 5, 15, 60, 300, 1_800, 7_200, 18_000, 36_000, 86_400, 108_000];
    for (const [n, pause] of pauses.entries()) {
      const event = { created_at: failure.now, tried: n + 1 };
      const [least = 0, middle = 0, most = 0] = [0, 0.5, 0.999_999].map(
        (random) => ((nextAttemptAt(event, failure, random) ?? 0) - failure.now) / 1_000,
      );
      expect([least, middle, Math.round(most)]).toEqual([pause * 0.9, pause, Math.round(pause * 1.1)]);
    }
    expect(nextAttemptAt({ created_at: 0, tried: 12 }, failure, 0.5)).toBeNull();
  });

  it("ends at 72 hours, with a last attempt then", () => {
    const created_at = failure.now - WEBHOOK_GIVE_UP_MS + 60_000;
    expect(nextAttemptAt({ created_at, tried: 11 }, failure, 0.5)).toBe(failure.now + 60_000);
    expect(nextAttemptAt({ created_at: failure.now - WEBHOOK_GIVE_UP_MS, tried: 3 }, failure, 0.5)).toBeNull();
  });

  it("waits as the receiver asks where that is longer, for an hour at most, and ends at 410", () => {
    const event = { created_at: failure.now, tried: 1 };
    const next = (retryAfterMs: number | null, error: "status" | "gone" = "status"): number | null =>
      nextAttemptAt(event, { ...failure, retryAfterMs, error }, 0.5);
    expect(next(30_000)).toBe(failure.now + 30_000);
    expect(next(10)).toBe(failure.now + 1_000);
    expect(next(1e9)).toBe(failure.now + 3_600_000);
    expect(next(30_000, "gone")).toBeNull();
  });
});

describe("an answer", () => {
  it.each([
    [200, null],
    [204, null],
    [301, "redirect"],
    [304, "redirect"],
    [400, "status"],
    [410, "gone"],
    [503, "status"],
  ])("of %i is %s", (status, error) => expect(errorOfStatus(status)).toBe(error));

  it("may ask for time in seconds or by a date", () => {
    const now = Date.UTC(2030, 0, 1);
    expect(parseRetryAfter("120", now)).toBe(120_000);
    expect(parseRetryAfter(new Date(now + 5_000).toUTCString(), now)).toBe(5_000);
    expect(parseRetryAfter(new Date(now - 5_000).toUTCString(), now)).toBe(0);
    for (const nothing of [null, "", "soon", "-1"]) expect(parseRetryAfter(nothing, now) ?? 0).toBe(0);
  });
});

describe("a key", () => {
  it("is an account's and a generation's own, in base64 that both clients split right", () => {
    const keys = Array.from({ length: 200 }, (_, n) => webhookKey("secret", "alice", String(n)));
    expect(new Set([...keys, webhookKey("secret", "bob", "0"), webhookKey("other", "alice", "0")]).size).toBe(202);
    for (const key of keys) expect(key).toMatch(/^whsec_[A-Za-z0-9+/]{32}$/);
    expect(webhookKey("secret", "alice", "0")).toBe(keys[0]);
  });
});

describe("a body", () => {
  it("is whole up to 1 MiB of UTF-8, and without its data beyond", () => {
    const sized = (bytes: number, of = "x") => ({ id: "a", output: of.repeat(bytes), logs: "l", input: { a: 1 } });
    const frame = JSON.stringify(sized(0)).length;
    expect(webhookBody(sized(WEBHOOK_BODY_BYTES_MAX - frame)).length).toBe(WEBHOOK_BODY_BYTES_MAX);
    const slim = { id: "a", output: null, logs: "", input: {}, truncated: true };
    expect(JSON.parse(webhookBody(sized(WEBHOOK_BODY_BYTES_MAX - frame + 1)))).toEqual(slim);
    expect(JSON.parse(webhookBody(sized(WEBHOOK_BODY_BYTES_MAX / 2, "é")))).toEqual(slim);
  });
});

describe("a filter", () => {
  it("names what is told; none is everything, an empty one nothing", () => {
    expect(isWanted("logs", null)).toBe(true);
    expect(isWanted("logs", ["logs"])).toBe(true);
    expect(isWanted("completed", ["logs"])).toBe(false);
    expect(isWanted("completed", [])).toBe(false);
  });
});

describe("where a webhook may go", () => {
  it.each([
    ["http://127.0.0.1:9000/hook", ["127.0.0.0/8"], true],
    ["http://localhost:9000/hook", ["127.0.0.0/8"], true],
    ["http://localhost:9000/hook", ["::1/128"], true],
    ["http://localhost:9000/hook", ["10.0.0.0/8"], false],
    ["http://10.1.2.3:9000/hook", ["10.0.0.0/8"], true],
    ["http://10.1.2.3:9000/hook", ["127.0.0.0/8"], false],
    ["http://[::1]:9000/", ["::1/128"], true],
    ["http://receiver:9000/hook", ["172.16.0.0/12"], true],
    ["http://receiver:9000/hook", [], false],
    ["https://example.com:9000/hook", ["127.0.0.0/8"], false],
    ["https://example.com/hook?a=b", [], true],
    ["http://8.8.8.8/", [], true],
    ["http://8.8.8.8:9000/", ["127.0.0.0/8"], false],
  ])("%s with %j: %s", (url, allowed, isAllowed) => {
    expect(userUrlFault(url, allowed) === null).toBe(isAllowed);
  });
});
