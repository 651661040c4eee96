/** The first step of every command, against an npm that only does what it is told: the real one is run by every fresh clone, `.ci/run` first. */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { startMark } from "./processes.ts";

/** Makes a tree of two packages and the Node that runs, notes its call, and answers with the code in `npm-code`. */
const NPM = `
const fs = require("node:fs");
fs.appendFileSync("npm-calls", process.argv.slice(2).join(" ") + "\\n");
const code = fs.existsSync("npm-code") ? Number(fs.readFileSync("npm-code", "utf8")) : 0;
if (code !== 0) { console.error("the registry is away"); process.exit(code); }
for (const name of ["one", "two"]) {
  fs.mkdirSync("node_modules/" + name, { recursive: true });
  fs.writeFileSync("node_modules/" + name + "/package.json", "{}");
}
fs.mkdirSync("node_modules/.bin", { recursive: true });
fs.rmSync("node_modules/.bin/node", { force: true });
fs.symlinkSync(process.execPath, "node_modules/.bin/node");
const packages = { "node_modules/one": {}, "node_modules/two": {} };
fs.writeFileSync("node_modules/.package-lock.json", JSON.stringify({ packages }));
`;
/** Stands in for start.ts. */
const COMMAND = `
import { writeFileSync } from "node:fs";
process.on("SIGTERM", () => { console.log("told to end"); process.exit(7); });
process.on("disconnect", () => { writeFileSync("parent-gone", ""); process.exit(0); });
console.log("runs with " + process.argv.slice(2).join(" "));
if (process.argv.includes("stay")) setInterval(() => {}, 1000);
else process.exit(3);
`;

let root: string;
let children: ChildProcess[];
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "cogway-bootstrap-"));
  children = [];
  mkdirSync(join(root, "gpu-origin/cli"), { recursive: true });
  for (const name of ["bootstrap.mjs", "on-node-24.mjs"]) {
    cpSync(join(import.meta.dirname, name), join(root, "gpu-origin/cli", name));
  }
  writeFileSync(join(root, "gpu-origin/cli/start.ts"), COMMAND);
  writeFileSync(join(root, "package.json"), '{ "type": "module" }');
  writeFileSync(
    join(root, "package-lock.json"),
    '{ "packages": { "": {}, "node_modules/one": {}, "node_modules/two": {} } }',
  );
  writeFileSync(join(root, "npm.cjs"), NPM);
  writeFileSync(join(root, "npm.js"), 'await import("./npm.cjs");');
});
afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(root, { recursive: true, force: true });
});

function bootstrap(...args: string[]): { child: ChildProcess; output: () => string; exited: Promise<number | null> } {
  const { npm_lifecycle_event: _, ...env } = process.env;
  const child = spawn(process.execPath, [join(root, "gpu-origin/cli/bootstrap.mjs"), ...args], {
    cwd: root,
    env: { ...env, npm_execpath: join(root, "npm.js") },
  });
  children.push(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  return { child, output: () => output, exited: new Promise((resolve) => child.once("close", resolve)) };
}

function installs(): number {
  const path = join(root, "npm-calls");
  return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n").length : 0;
}

it("installs once, runs the command with its arguments, and ends with its code", async () => {
  for (const _ of [1, 2]) {
    const run = bootstrap("start", "--no-wait");
    expect(await run.exited).toBe(3);
    expect(run.output()).toContain("runs with --no-wait");
  }
  expect(installs()).toBe(1);
  expect(readFileSync(join(root, "npm-calls"), "utf8")).toMatch(/^install /);
});

it("installs again when the lock has changed", async () => {
  await bootstrap("start").exited;
  writeFileSync(join(root, "package-lock.json"), '{ "packages": { "": {}, "node_modules/one": {} } }');
  await bootstrap("start").exited;
  expect(installs()).toBe(2);
});

it.each([
  ["a package that is gone", "node_modules/two"],
  ["no Node", "node_modules/.bin/node"],
  ["an install that was cut off", "node_modules/.package-lock.json"],
])("makes the tree anew after %s", async (_, path) => {
  await bootstrap("start").exited;
  rmSync(join(root, path), { recursive: true });
  writeFileSync(join(root, "node_modules/left"), "");
  const run = bootstrap("start");
  expect(await run.exited).toBe(3);
  expect(run.output()).toContain("node_modules is broken");
  expect(existsSync(join(root, "node_modules/left"))).toBe(false);
  expect(installs()).toBe(2);
});

it("shows what npm said when it failed, and tries again at the next start", async () => {
  writeFileSync(join(root, "npm-code"), "1");
  const run = bootstrap("start");
  expect(await run.exited).toBe(1);
  expect(run.output()).toContain("the registry is away");
  expect(run.output()).not.toContain("runs with");
  rmSync(join(root, "npm-code"));
  expect(await bootstrap("start").exited).toBe(3);
});

it("passes SIGTERM on and waits for the end", async () => {
  const run = bootstrap("start", "stay");
  await expect.poll(run.output, { timeout: 20_000 }).toContain("runs with stay");
  run.child.kill("SIGTERM");
  expect(await run.exited).toBe(7);
  expect(run.output()).toContain("told to end");
});

it("killed hard, it leaves a command that knows", async () => {
  const run = bootstrap("start", "stay");
  await expect.poll(run.output, { timeout: 20_000 }).toContain("runs with stay");
  run.child.kill("SIGKILL");
  await run.exited;
  await expect.poll(() => existsSync(join(root, "parent-gone")), { timeout: 10_000 }).toBe(true);
});

it("takes over the lock of an install whose process is gone", async () => {
  mkdirSync(join(root, "dist"));
  const gone = spawn(process.execPath, ["--version"], { stdio: "ignore" });
  await new Promise((resolve) => gone.once("close", resolve));
  expect(startMark(gone.pid ?? 0)).toBeNull();
  writeFileSync(join(root, "dist/installing"), String(gone.pid));
  expect(await bootstrap("start").exited).toBe(3);
  expect(existsSync(join(root, "dist/installing"))).toBe(false);
});
