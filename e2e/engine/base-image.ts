/** The base image's archive: a small Debian with Python, made by debootstrap once and kept, since no registry of images need be reachable. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { engineEnv, NoEngine } from "./machine.ts";

const SUITE = "bookworm";
const PACKAGES = ["python3", "python3-venv", "ca-certificates"];
/** What a container never reads: a third of the size. */
const UNUSED = ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt/archives", "var/lib/apt/lists"];
/** Name of the image in the engine. */
export const BASE_IMAGE = `local/base:${SUITE}`;
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";
const MAKE_TIMEOUT_MS = 10 * 60_000;
const KEY_CHARACTERS = 16;

/** Path of the archive, made where it is not kept yet. Written aside and renamed, so that a broken one is never found. */
export function baseArchive(say: (line: string) => void): string {
  const cache = process.env["COGWAY_TEST_CACHE"] ?? "/var/cache/cogway-test";
  const archive = join(cache, `base-${SUITE}-${key()}.tar`);
  if (existsSync(archive)) return archive;
  say(`making the base image by debootstrap, once: ${archive}`);
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, "making-"));
  try {
    const root = join(folder, "root");
    // In namespaces of its own: what it mounts in there goes with it.
    const spaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    const options = ["--variant=minbase", `--include=${PACKAGES.join(",")}`];
    run("unshare", ...spaces, "debootstrap", ...options, SUITE, root);
    for (const path of UNUSED) {
      rmSync(join(root, path), { recursive: true, force: true });
      mkdirSync(join(root, path), { recursive: true });
    }
    if (existsSync(CERTIFICATES)) copyFileSync(CERTIFICATES, join(root, CERTIFICATES));
    run("tar", "-C", root, "-cf", join(folder, "base.tar"), ".");
    renameSync(join(folder, "base.tar"), archive);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return archive;
}

/** Another list of packages, or other certificate authorities of this machine, make another archive. */
function key(): string {
  const certificates = existsSync(CERTIFICATES) ? readFileSync(CERTIFICATES) : "";
  const hash = createHash("sha256")
    .update(JSON.stringify([SUITE, PACKAGES, UNUSED]))
    .update(certificates);
  return hash.digest("hex").slice(0, KEY_CHARACTERS);
}

function run(program: string, ...args: string[]): void {
  const result = spawnSync(program, args, { env: engineEnv(), timeout: MAKE_TIMEOUT_MS, encoding: "utf8" });
  if (result.status === 0) return;
  const last = `${result.stdout}\n${result.stderr}`.trim().split("\n").at(-1) ?? "";
  throw new NoEngine(
    `the base image could not be made: ${program} ended with ${result.status ?? result.signal}: ${last}`,
  );
}
