/** A log file when there is no room for it. */
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { LogFile } from "./log-file.ts";

it("leaves lines out while the disk is full, and says so afterwards", () => {
  const folder = mkdtempSync(join(tmpdir(), "cogway-log-"));
  const path = join(folder, "edge.log");
  const log = new LogFile(path);
  log.write("one");
  rmSync(path);
  // A device whose every write fails for lack of room.
  symlinkSync("/dev/full", path);
  log.write("two");
  log.write("three");
  rmSync(path);
  log.write("four");
  expect(readFileSync(path, "utf8")).toBe("(2 lines before this one could not be written)\nfour\n");
  rmSync(folder, { recursive: true });
});
