/** The command line as a caller meets it: what is said where, with which exit code. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { newToken } from "../../../schema/tokens.ts";
import { Interrupts } from "./interrupts.ts";
import { runProgram } from "./program.ts";
import { Captured } from "./testing/captured.ts";

const ESCAPE = "\x1b";
const COMMANDS = [
  "login",
  "logout",
  "whoami",
  "check",
  "push",
  "builds",
  "versions",
  "rollback",
  "run",
  "logs",
  "origin",
];

let home: string;
let folder: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "cogway-cli-home-"));
  folder = mkdtempSync(join(tmpdir(), "cogway-cli-model-"));
});
afterEach(() => {
  for (const path of [home, folder]) rmSync(path, { recursive: true, force: true });
});

async function cogway(
  args: string[],
  { env = {}, isTTY = false }: { env?: Record<string, string>; isTTY?: boolean } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [new Captured(isTTY), new Captured(isTTY)];
  const code = await runProgram(args, {
    stdout,
    stderr,
    isInteractive: false,
    env: { XDG_CONFIG_HOME: home, ...env },
    interrupts: new Interrupts(),
  });
  return { code, stdout: stdout.text, stderr: stderr.text };
}

describe("help", () => {
  it.each(COMMANDS)("of %s shows examples", async (name) => {
    const { code, stdout, stderr } = await cogway([name, "--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(`Examples:\n  $ cogway ${name}`);
    expect(stdout).toContain("--json");
  });

  it("is what one gets without a command", async () => {
    const { code, stdout } = await cogway([]);
    expect(code).toBe(0);
    for (const name of COMMANDS) expect(stdout).toContain(name);
  });
});

describe("a command that is not written right", () => {
  it.each([
    [["pussh"], "Did you mean push?"],
    [["push", "--jsn", "a/b"], "Did you mean --json?"],
    [["push"], "cogway push [dir] owner/name"],
    [["push", "--concurrency", "99", "a/b"], "1 to 32"],
    [["push", "--public", "--private", "a/b"], "cannot be used with"],
    [["run"], "missing required argument"],
    [["versions", "diff", "a/b", "--jsn"], "Did you mean --json?"],
  ])("%j says what to write", async (args, message) => {
    const { code, stdout, stderr } = await cogway(args);
    expect(code).toBeGreaterThan(0);
    expect(stdout).toBe("");
    expect(stderr).toContain(message);
    expect(stderr.match(/^error /gm)).toHaveLength(1);
  });
});

it("gives an option to the command that it stands behind", async () => {
  const { stdout } = await cogway(["versions", "diff", "--help"]);
  expect(stdout).toContain("cogway versions diff ada/my-model");
  const { stderr } = await cogway(["versions", "diff", "a/b", "--json"]);
  expect(stderr).toContain("not logged in");
});

describe("check", () => {
  const broken = (): void => {
    writeFileSync(join(folder, "cog.yaml"), 'build:\n  python_verson: "3.11"\nrun: predict.py:Runner\n');
    writeFileSync(join(folder, "predict.py"), "class Runner:\n  pass\n");
  };

  it("names every fault with its place, in one message on stderr", async () => {
    broken();
    const { code, stdout, stderr } = await cogway(["check", folder]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/cog\.yaml:2:3 .*python_version/);
    expect(stderr.match(/^error /gm)).toHaveLength(1);
    expect(stderr).not.toContain("    at ");
  });

  it("gives programs a document", async () => {
    broken();
    const { code, stdout } = await cogway(["check", folder, "--json"]);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ ok: false, faults: [{ file: "cog.yaml", line: 2, column: 3 }, {}] });
  });

  it("says where no folder is", async () => {
    const { code, stderr } = await cogway(["check", join(folder, "none")]);
    expect(code).toBe(1);
    expect(stderr).toContain("There is no folder");
  });
});

describe("colours", () => {
  it("are for terminals that want them", async () => {
    const inColour = async (options: Parameters<typeof cogway>[1]): Promise<boolean> => {
      const { stderr } = await cogway(["check", join(folder, "none")], options);
      return stderr.includes(ESCAPE);
    };
    expect(await inColour({ isTTY: true })).toBe(true);
    expect(await inColour({ isTTY: false })).toBe(false);
    expect(await inColour({ isTTY: true, env: { NO_COLOR: "1" } })).toBe(false);
    expect(await inColour({ isTTY: true, env: { TERM: "dumb" } })).toBe(false);
  });
});

describe("a login", () => {
  let server: Server;
  let url: string;
  const token = newToken();
  beforeEach(async () => {
    server = createServer((request, response) => {
      const isGood = request.headers.authorization === `Bearer ${token}`;
      response.writeHead(isGood ? 200 : 401, { "content-type": "application/json" });
      response.end(JSON.stringify(isGood ? { type: "user", username: "ada", name: "Ada" } : {}));
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterEach(() => {
    server.close();
    server.closeAllConnections();
  });

  it("is verified, kept for its owner alone, used, and forgotten", async () => {
    const made = await cogway(["login", "--url", `${url}/`], { env: { COGWAY_TOKEN: token } });
    expect(made).toMatchObject({ code: 0, stderr: "" });
    expect(made.stdout).toContain(`Logged in to ${url} as ada`);
    const path = join(home, "cogway/logins.json");
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(made.stdout).not.toContain(token);
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual({ url, tokens: { [url]: token } });
    const who = await cogway(["whoami", "--json"]);
    expect(JSON.parse(who.stdout)).toEqual({ url, type: "user", username: "ada", name: "Ada" });
    expect((await cogway(["logout"])).stdout).toContain(`Logged out of ${url}`);
    const after = await cogway(["whoami"], { env: { COGWAY_URL: url } });
    expect(after).toMatchObject({ code: 1, stdout: "" });
    expect(after.stderr).toContain("Run cogway login, or set COGWAY_TOKEN");
  });

  it("is not kept where the platform refuses it, or is not there", async () => {
    const refused = await cogway(["login", "--url", url], { env: { COGWAY_TOKEN: newToken() } });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("refuses this token");
    const mistyped = await cogway(["login", "--url", url], { env: { COGWAY_TOKEN: `${token.slice(0, -1)}!` } });
    expect(mistyped.stderr).toContain("Copy it again");
    server.close();
    server.closeAllConnections();
    const away = await cogway(["whoami"], { env: { COGWAY_URL: "http://127.0.0.1:1", COGWAY_TOKEN: token } });
    expect(away.code).toBe(1);
    expect(away.stderr).toContain("http://127.0.0.1:1 cannot be reached");
  });
});

describe("cogway origin", () => {
  const seen: string[] = [];
  const origin = {
    id: "abcd",
    url: "https://host.example",
    region: "local",
    driver: "docker",
    state: "drained",
    hardware: [{ sku: "gpu-h100", name: "H100", gpus: 1 }],
    capacity: { instances: 4, memory_bytes: 1 },
    instances: 0,
  };
  const answers: Record<string, [number, unknown]> = {
    "POST /admin/v1/origins": [201, { join_token: "the-join-token", expires_at: "2026-01-02T03:04:05.000Z" }],
    "GET /admin/v1/origins": [200, { previous: null, next: null, results: [origin] }],
    "POST /admin/v1/origins/abcd/drain": [200, origin],
    "POST /admin/v1/origins/abcd/undrain": [200, { ...origin, state: "ready" }],
    "DELETE /admin/v1/origins/abcd": [204, undefined],
  };
  let server: Server;
  let env: Record<string, string>;
  beforeEach(async () => {
    server = createServer((request, response) => {
      const call = `${request.method} ${request.url}`;
      seen.push(`${call} ${request.headers.authorization}`);
      const [status, body] = answers[call] ?? [404, { code: "origin.not_found", detail: "There is no such origin." }];
      response.writeHead(status, { "content-type": "application/json" });
      response.end(body === undefined ? "" : JSON.stringify(body));
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const { port } = server.address() as AddressInfo;
    env = { COGWAY_URL: `http://127.0.0.1:${port}`, COGWAY_TOKEN: newToken() };
  });
  afterEach(() => {
    server.close();
    server.closeAllConnections();
  });

  it.each([
    [["add"], "COGWAY_JOIN_TOKEN=the-join-token"],
    [["ls"], "gpu-h100"],
    [["drain", "abcd"], "abcd is drained"],
    [["undrain", "abcd"], "abcd is ready"],
    [["rm", "abcd"], "Removed abcd"],
  ])("%j", async (args, text) => {
    const { code, stdout } = await cogway(["origin", ...args], { env });
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining(text) });
    expect(seen.at(-1)).toContain(`Bearer ${env["COGWAY_TOKEN"]}`);
  });

  it("says what the platform says where there is no such origin, and speaks JSON", async () => {
    const missing = await cogway(["origin", "rm", "none"], { env });
    expect(missing.code).not.toBe(0);
    expect(missing.stderr).toContain("There is no such origin.");
    const { stdout } = await cogway(["origin", "ls", "--json"], { env });
    expect(JSON.parse(stdout)).toEqual({ origins: [origin] });
  });
});
