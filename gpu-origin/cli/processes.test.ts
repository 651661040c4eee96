import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { freePort, originName, ProcessFiles, requireFreePort, startMark } from "./processes.ts";

let folder: string;
let files: ProcessFiles;
let children: ChildProcess[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "cogway-processes-"));
  files = new ProcessFiles(folder);
  children = [];
});
afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true });
});

function sleeper(): number {
  const child = spawn("sleep", ["600"], { stdio: "ignore" });
  children.push(child);
  if (child.pid === undefined) throw new Error("no process");
  return child.pid;
}

describe("process files", () => {
  it("name a process by its id and its start, so that a later one with the same id is another", () => {
    const pid = sleeper();
    files.write("workerd", pid);
    expect(files.running("workerd")).toBe(pid);
    writeFileSync(files.path("workerd"), `${pid} ${startMark(process.pid)}\n`);
    expect(files.running("workerd")).toBeNull();
  });

  it("end what a dead launcher left, and nothing else", async () => {
    const [origin, third, reused] = [sleeper(), sleeper(), sleeper()];
    files.write(originName(0), origin);
    files.write(originName(2), third);
    writeFileSync(files.path("workerd"), `${reused} of an earlier process\n`);
    writeFileSync(files.path("launcher"), `${reused} of an earlier process\n`);
    expect(await files.takeOver()).toBe(2);
    expect([origin, third].map(startMark)).toEqual([null, null]);
    expect(startMark(reused)).not.toBeNull();
    expect(files.isOwner).toBe(true);
  });

  it("refuse while another launcher lives", async () => {
    const [other, origin] = [sleeper(), sleeper()];
    files.write("launcher", other);
    files.write("gpu-origin", origin);
    await expect(files.takeOver()).rejects.toThrow(`process ${other}`);
    expect(files.isOwner).toBe(false);
    expect(startMark(origin)).not.toBeNull();
  });

  it("wait for one that is ending", async () => {
    files.write("launcher", sleeper());
    files.markEnding();
    const taken = files.takeOver();
    children[0]?.kill("SIGKILL");
    await taken;
    expect(files.isOwner).toBe(true);
  });

  it("are written by the starter of workerd before it runs, as the launcher writes them", async () => {
    const child = spawn(join(import.meta.dirname, "workerd.sh"), ["600"], {
      stdio: "ignore",
      env: { PATH: process.env["PATH"], COGWAY_WORKERD: "sleep", COGWAY_WORKERD_PID_FILE: files.path("workerd") },
    });
    children.push(child);
    await expect.poll(() => files.running("workerd"), { timeout: 5_000 }).toBe(child.pid);
    const written = readFileSync(files.path("workerd"), "utf8");
    files.write("workerd", child.pid ?? 0);
    expect(readFileSync(files.path("workerd"), "utf8")).toBe(written);
  });
});

it("a taken port is named with the variable that changes it", async () => {
  const port = await freePort();
  await requireFreePort(port, "COGWAY_PORT");
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  await expect(requireFreePort(port, "COGWAY_PORT")).rejects.toThrow(`Port ${port} (COGWAY_PORT) is taken`);
  // One that a killed process still holds for a moment is waited for.
  const freed = requireFreePort(port, "COGWAY_PORT", 5_000);
  setTimeout(() => server.close(), 100);
  await freed;
  await new Promise((resolve) => server.close(resolve));
});
