/** Smoke test: what is written in wrangler.toml also starts under wrangler's own local server, and answers. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterEach, beforeEach, expect, it } from "vitest";
import { buildAll } from "./build.ts";
import { ROOT } from "./paths.ts";
import { freePort } from "./processes.ts";

const WRANGLER = join(ROOT, "node_modules/wrangler/bin/wrangler.js");

let folder: string;
let child: ChildProcess | null = null;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "cogway-wrangler-"));
});
afterEach(async () => {
  const running = child;
  if (running?.pid !== undefined && running.exitCode === null) {
    const ended = new Promise((resolve) => running.once("close", resolve));
    // The whole group: wrangler has workerd and esbuild below it.
    process.kill(-running.pid, "SIGKILL");
    await ended;
  }
  rmSync(folder, { recursive: true, force: true });
});

it("wrangler dev serves the API", async () => {
  // The page is the Worker's assets.
  await buildAll();
  const port = await freePort();
  const env = {
    ...process.env,
    NODE_ENV: "development",
    WRANGLER_SEND_METRICS: "false",
    WRANGLER_LOG_PATH: folder,
    CLOUDFLARE_CF_FETCH_ENABLED: "false",
    CI: "1",
  };
  await execa(process.execPath, [WRANGLER, "d1", "migrations", "apply", "DB", "--local", "--persist-to", folder], {
    cwd: ROOT,
    env,
  });
  const variables = ["SIGNING_SECRET:c2VjcmV0", `JOIN_TOKEN_SHA256:${"0".repeat(64)}`].flatMap((each) => [
    "--var",
    each,
  ]);
  const options = ["dev", "--port", String(port), "--inspector-port", "0", "--persist-to", folder, ...variables];
  child = spawn(process.execPath, [WRANGLER, ...options], { cwd: ROOT, detached: true, stdio: "ignore", env });
  const get = async (path: string): Promise<{ status: number; body: unknown }> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, body: await response.json() };
  };
  // No origin has joined, and it says so.
  await expect.poll(() => get("/healthz").catch(() => null), { timeout: 90_000 }).toMatchObject({ status: 503 });
  expect(await get("/v1/models")).toMatchObject({ status: 401 });
  expect(await get("/openapi.json")).toMatchObject({ status: 200, body: { openapi: "3.1.0" } });
}, 180_000);
