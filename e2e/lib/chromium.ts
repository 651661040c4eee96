/** Where the browser of the tests is. */
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";

/** The test runner names one in COGWAY_CHROMIUM (gpu-origin/cli/chromium.ts). */
export function chromiumPath(): string {
  const given = process.env["COGWAY_CHROMIUM"];
  if (given !== undefined && given !== "") return given;
  const paths = (process.env["PATH"] ?? "").split(delimiter).map((folder) => join(folder, "chromium"));
  const found = paths.find((path) => existsSync(path));
  if (found === undefined)
    throw new Error("No Chromium: install it (Debian: chromium), or name one with COGWAY_CHROMIUM.");
  return found;
}
