import { expect, it } from "vitest";
import { progressOf } from "./progress.ts";

it.each([
  ["", null],
  ["reading /data/12/files\n", null],
  ["3 files in process 12\nstep 1/10\nstep 2/10\n", { done: 2, total: 10 }],
  [" 25%|##5       | 100/400 [00:12<00:36,  8.31it/s, loss 0.412]\n", { done: 100, total: 400 }],
  ["epoch 1: 10%|#| 5/50\repoch 1: 20%|##| 10/50\r", { done: 10, total: 50 }],
  ["step 9/10\nsaving the weights\n", { done: 9, total: 10 }],
  ["ratio 7/3\n", null],
])("the progress in %j is %j", (logs, progress) => {
  expect(progressOf(logs)).toEqual(progress);
});

it("reads only the end of long logs", () => {
  expect(progressOf(`step 1/9\n${"x\n".repeat(10_000)}`)).toBeNull();
});
