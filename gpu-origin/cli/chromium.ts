/** The headless browser of the page's test: found, or installed where that is allowed. */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { execa } from "execa";
import { progress } from "./progress.ts";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const INSTALL_TIMEOUT_MS = 10 * 60_000;

/** Path of a Chromium; null (with a line that says what to do) when there is none and it cannot be installed. */
export async function findChromium(): Promise<string | null> {
  const given = process.env["COGWAY_CHROMIUM"];
  if (given !== undefined && given !== "") return given;
  const found = onPath(NAMES);
  if (found !== null) return found;
  if (process.getuid?.() === 0 && onPath(["apt-get"]) !== null) {
    const step = progress.begin("Installing Chromium for the page's test");
    const env = { DEBIAN_FRONTEND: "noninteractive" };
    const options = { env, reject: false, timeout: INSTALL_TIMEOUT_MS, all: true } as const;
    const install = ["install", "-y", "--no-install-recommends", "chromium"];
    let result = await execa("apt-get", install, options);
    if (result.exitCode !== 0) {
      await execa("apt-get", ["update"], options);
      result = await execa("apt-get", install, options);
    }
    step.end(result.exitCode === 0 ? "Installed Chromium" : undefined);
    const installed = onPath(NAMES);
    if (installed !== null) return installed;
  }
  progress.warn(
    "No Chromium was found, so the page's test will fail. Debian: apt-get install chromium; or name one with COGWAY_CHROMIUM.",
  );
  return null;
}

function onPath(names: string[]): string | null {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const paths = names.flatMap((name) => folders.map((folder) => join(folder, name)));
  return paths.find((path) => isExecutable(path)) ?? null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
