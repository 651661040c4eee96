import { expect, it } from "vitest";
import { StartTimes } from "./instance-start-times.ts";

it("tells how long boot and setup took once both ended, and the cold start once for each", () => {
  const times = new StartTimes();
  times.begin();
  expect([times.status(), times.takeColdStart()]).toEqual([{}, null]);
  times.answered();
  times.answered();
  times.ready();
  expect(times.status()).toEqual({ boot_ms: expect.any(Number), setup_ms: expect.any(Number) });
  expect(times.takeColdStart()).toMatchObject(times.status());
  expect(times.takeColdStart()).toBeNull();
});

it("does not tell the boot of a server that an earlier process started, and measures its next start", () => {
  const times = new StartTimes();
  times.adopted();
  times.answered();
  expect([times.status(), times.takeColdStart()]).toEqual([{}, null]);
  times.begin();
  times.answered();
  expect(times.status()).toEqual({ boot_ms: expect.any(Number) });
  // Not the time since this process began.
  expect(times.status().boot_ms).toBeLessThan(performance.now());
});
