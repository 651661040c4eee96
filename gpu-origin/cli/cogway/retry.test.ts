/** When another try is made, and that tries end. */
import { expect, it } from "vitest";
import { type Failure, pauseBefore, retried, retryAfterMs, TRIES_MAX } from "./retry.ts";

const of = (status: number | null, retryAfter: number | null = null): Failure => ({ status, retryAfterMs: retryAfter });

it.each([null, 408, 429, 500, 502, 503, 504, 522])("tries again after %s", (status) => {
  expect(pauseBefore(of(status), 1, 0)).toBeGreaterThan(0);
});

it.each([400, 401, 403, 404, 409, 413, 422])("does not after %s", (status) => {
  expect(pauseBefore(of(status), 1, 0)).toBeNull();
});

it("waits longer each time, between half and the whole, and not for ever", () => {
  const shortest = Array.from({ length: TRIES_MAX - 1 }, (_, index) => pauseBefore(of(503), index + 1, 0));
  expect(shortest).toEqual([500, 1_000, 2_000, 4_000, 8_000]);
  expect(pauseBefore(of(503), 1, 1)).toBe(1_000);
  expect(pauseBefore(of(503), TRIES_MAX, 0)).toBeNull();
});

it("waits as long as it is told, but not longer than anybody would", () => {
  expect(pauseBefore(of(429, 7_000), 1, 0)).toBe(7_000);
  expect(pauseBefore(of(429, 600_000), 1, 0)).toBeNull();
});

it("reads Retry-After as seconds and as a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  expect(retryAfterMs("3", now)).toBe(3_000);
  expect(retryAfterMs("Thu, 01 Jan 2026 00:00:10 GMT", now)).toBe(10_000);
  expect(retryAfterMs("soon", now)).toBeNull();
  expect(retryAfterMs(null, now)).toBeNull();
});

it("gives up what was interrupted while it waited", async () => {
  const abort = new AbortController();
  const given = retried(
    () => Promise.reject(new Error("again")),
    () => of(503, 60_000),
    { signal: abort.signal, onRetry: () => queueMicrotask(() => abort.abort(new Error("interrupted"))) },
  );
  await expect(given).rejects.toThrow(/aborted|interrupted/);
});
