/** What the engine needs of this machine: Linux, root, namespaces, and Debian's packages, which are installed where they are missing. */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";

const INSTALL_TIMEOUT_MS = 10 * 60_000;

/** A program of each package, to tell whether it is there. */
const PACKAGES: Record<string, string> = {
  dockerd: "docker.io",
  debootstrap: "debootstrap",
  runsc: "runsc",
  slirp4netns: "slirp4netns",
  iptables: "iptables",
  ip: "iproute2",
  tini: "tini",
};

/** Programs of Debian's administrators lie where not every PATH looks. */
const PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`;

/** Why no engine can be started here; its message is one line. */
export class NoEngine extends Error {}

/** The environment in which the programs above are found. */
export function engineEnv(): NodeJS.ProcessEnv {
  return { ...process.env, PATH };
}

/** Throws {@link NoEngine} where one cannot be started; installs what is missing. */
export function prepareMachine(say: (line: string) => void): void {
  if (process.platform !== "linux") throw new NoEngine("it needs Linux");
  if (process.getuid?.() !== 0)
    throw new NoEngine("it needs root (or an engine that runs, in COGWAY_TEST_DOCKER_HOST)");
  if (!isThere("unshare") || !isThere("setpriv")) throw new NoEngine("util-linux (unshare, setpriv) is missing");
  const missing = Object.keys(PACKAGES).filter((program) => !isThere(program));
  if (missing.length > 0)
    install(
      missing.map((program) => PACKAGES[program] ?? program),
      say,
    );
  const spaces = spawnSync("unshare", ["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"], {
    env: engineEnv(),
  });
  if (spaces.status !== 0) throw new NoEngine(`namespaces cannot be made: ${spaces.stderr.toString().trim()}`);
  if (!existsSync("/dev/net/tun")) throw new NoEngine("/dev/net/tun is missing");
}

function install(packages: string[], say: (line: string) => void): void {
  if (!isThere("apt-get")) throw new NoEngine(`${packages.join(", ")} are missing, and there is no apt-get`);
  say(`installing ${packages.join(", ")}`);
  apt("update");
  const faults = apt("install", "-y", "--no-install-recommends", ...packages);
  if (faults !== null) throw new NoEngine(`${packages.join(", ")} cannot be installed: ${faults}`);
}

/** Null when it went well, else its last line. */
function apt(...args: string[]): string | null {
  const env = { ...engineEnv(), DEBIAN_FRONTEND: "noninteractive" };
  const result = spawnSync("apt-get", args, { env, timeout: INSTALL_TIMEOUT_MS, encoding: "utf8" });
  if (result.status === 0) return null;
  return `${result.stdout}\n${result.stderr}`.trim().split("\n").at(-1) ?? "apt-get failed";
}

function isThere(program: string): boolean {
  return PATH.split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
