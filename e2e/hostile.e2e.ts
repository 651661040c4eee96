/**
 * Hostile URLs against the whole system, in a network namespace where every address of the Internet, of this host and of its network leads to a listener, and
 * names resolve as an attacker wants: what is not public must get no connection at all.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { Report } from "./hostile/addresses.ts";

const TIMEOUT_MS = 400_000;

/** Every address is local, and names are asked of a server in the namespace. */
const NAMESPACE = [
  "ip link set lo up",
  "ip route add local 0.0.0.0/0 dev lo",
  "ip -6 route add local ::/0 dev lo",
  'mount --bind "$1" /etc/resolv.conf',
  'exec "$2" "$3"',
].join(" && ");
const UNSHARE = ["--map-root-user", "--net", "--mount"];

/** Some hosts let nobody make a network namespace. */
function canUnshare(): boolean {
  try {
    execFileSync("unshare", [...UNSHARE, "ip", "link", "set", "lo", "up"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

async function inNamespace(script: string): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), "cogway-e2e-"));
  const names = join(folder, "resolv.conf");
  writeFileSync(names, "nameserver 127.0.0.53\noptions timeout:2 attempts:2\n");
  const path = join(import.meta.dirname, script);
  const child = spawn("unshare", [...UNSHARE, "sh", "-c", NAMESPACE, "sh", names, process.execPath, path], {
    env: { ...process.env, NODE_OPTIONS: "" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  let errors = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const code = await new Promise((done) => child.on("close", done));
  rmSync(folder, { recursive: true, force: true });
  if (code !== 0) throw new Error(`${script} ended with ${code}: ${errors.slice(-4_000)}`);
  return JSON.parse(output) as Report;
}

test.runIf(canUnshare())(
  "hostile URLs reach nothing, honest ones work, and what is opened is all that is open",
  {
    timeout: TIMEOUT_MS,
  },
  async () => {
    const report = await inNamespace("hostile/addresses.ts");
    expect(report.tried).toBeGreaterThanOrEqual(150);
    expect(report.visits).toEqual([]);
    expect(report.taken).toEqual([]);
    expect(report.unreached).toEqual([]);
    const roads = ["input", "webhook", "batch"];
    const expected = (isOpen: boolean, name: string) => roads.map((road) => [`${name} ${road}`, isOpen]);
    expect(report.opened).toEqual(
      Object.fromEntries(["opened", "beside", "edge", "origin"].flatMap((name) => expected(name === "opened", name))),
    );
    expect(report.rebound.reached).toBe(15);
    expect(report.rebound.lookups).toBeGreaterThanOrEqual(20);
  },
);
