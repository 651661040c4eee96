/** A push's blobs over a registry that fails as real ones do. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { planSource, type SourcePlan } from "../../packaging/pack.ts";
import { RegistryClient } from "./registry-client.ts";
import { FakePlatform } from "./testing/fake-platform.ts";
import { type Uploaded, type UploadProgress, uploadBlobs } from "./upload.ts";

const MODEL = { owner: "ada", name: "hello" };
const LARGE_FILES = 6;
const PUT = "PUT /v2/ada/hello/blobs/uploads/some-upload";

let platform: FakePlatform;
let folder: string;
let plan: SourcePlan;
const progress: UploadProgress = { known: vi.fn(), begin: vi.fn(), sent: vi.fn(), retry: vi.fn(), done: vi.fn() };

beforeEach(async () => {
  vi.clearAllMocks();
  // Pauses as short as they get.
  vi.spyOn(Math, "random").mockReturnValue(0);
  platform = await FakePlatform.start();
  folder = mkdtempSync(join(tmpdir(), "cogway-upload-"));
  writeFileSync(join(folder, "cog.yaml"), "run: predict.py:Runner\n");
  for (let n = 0; n < LARGE_FILES; n++) writeFileSync(join(folder, `weights-${n}.bin`), Buffer.alloc(1_100_000, n + 1));
  plan = await planSource(folder);
});
afterEach(() => {
  vi.restoreAllMocks();
  platform.stop();
  rmSync(folder, { recursive: true });
});

function upload(concurrency = 3, abort = new AbortController()): Promise<Uploaded> {
  const registry = new RegistryClient({ url: platform.url, token: "cw_token" }, MODEL, abort.signal);
  return uploadBlobs(registry, plan, progress, { concurrency, abort });
}

const puts = (): number => platform.calls.filter((call) => call === PUT).length;

it("sends as many at once as it may", async () => {
  let [now, most] = [0, 0];
  const together = Promise.withResolvers<void>();
  platform.fault = async (call) => {
    if (call !== PUT) return false;
    now += 1;
    most = Math.max(most, now);
    if (now === 3) together.resolve();
    await together.promise;
    now -= 1;
    return false;
  };
  await upload(3);
  expect(most).toBe(3);
});

it("sends what is missing, and nothing twice", async () => {
  expect(await upload()).toMatchObject({ layers: LARGE_FILES + 1, layers_sent: LARGE_FILES + 1 });
  for (const { descriptor } of plan.blobs) expect(platform.blobs.get(descriptor.digest)?.length).toBe(descriptor.size);
  const before = puts();
  expect(await upload()).toMatchObject({ layers_sent: 0, bytes_sent: 0 });
  expect(puts()).toBe(before);
});

it("sends one small layer after a change of one line", async () => {
  await upload();
  writeFileSync(join(folder, "cog.yaml"), "run: predict.py:Other\n");
  plan = await planSource(folder);
  const { layers, layers_sent, bytes_sent } = await upload();
  expect({ layers, layers_sent }).toEqual({ layers: LARGE_FILES + 1, layers_sent: 1 });
  expect(bytes_sent).toBeLessThan(10_000);
});

it.each([
  ["an answer of 503", 503],
  ["429", 429],
  ["408", 408],
])("tries again after %s", async (_, status) => {
  let left = 2;
  platform.fault = (call, request, response) => {
    if (call !== PUT || left === 0) return false;
    left -= 1;
    request.resume();
    response.writeHead(status, { "retry-after": "0" }).end();
    return true;
  };
  expect(await upload()).toMatchObject({ layers_sent: LARGE_FILES + 1 });
  expect(progress.retry).toHaveBeenCalledTimes(2);
});

it("tries again after a connection that was reset in the middle", async () => {
  let isLeft = true;
  platform.fault = (call, request) => {
    if (call !== PUT || !isLeft) return false;
    isLeft = false;
    request.once("data", () => request.socket.resetAndDestroy());
    return true;
  };
  expect(await upload()).toMatchObject({ layers_sent: LARGE_FILES + 1 });
  expect(progress.retry).toHaveBeenCalledOnce();
});

it("goes on after a cut: what arrived is not sent again", async () => {
  const abort = new AbortController();
  vi.mocked(progress.done).mockImplementation(() => {
    if (platform.blobs.size >= LARGE_FILES / 2) abort.abort(new Error("cut"));
  });
  await expect(upload(1, abort)).rejects.toThrow("cut");
  const arrived = platform.blobs.size;
  expect(arrived).toBeLessThan(plan.blobs.length);
  const before = puts();
  await upload();
  expect(puts() - before).toBe(plan.blobs.length - arrived);
});

it("shares one token among its calls", async () => {
  await upload();
  expect(platform.calls.filter((call) => call === "GET /v2/token")).toHaveLength(1);
});

it("takes another where a token is refused that worked before", async () => {
  const clock = vi.spyOn(performance, "now");
  let isLeft = true;
  platform.fault = (call) => {
    if (call !== PUT || !isLeft) return false;
    isLeft = false;
    // It was made long ago, and ends now.
    clock.mockImplementation(() => Date.now() + 60_000);
    platform.endTokens();
    return false;
  };
  expect(await upload()).toMatchObject({ layers_sent: LARGE_FILES + 1 });
  expect(platform.calls.filter((call) => call === "GET /v2/token")).toHaveLength(2);
});

it("renews a token before it ends", async () => {
  // Shorter than what is spared: each call needs a new one.
  platform.tokenTtlS = 1;
  await upload(1);
  expect(platform.calls.filter((call) => call === "GET /v2/token").length).toBeGreaterThan(plan.blobs.length);
});

it("says in one message what was not stored, and stops the others", async () => {
  platform.fault = (call, request, response) => {
    if (call !== PUT) return false;
    request.resume();
    const errors = [{ code: "DENIED", message: "ada may not push here" }];
    response.writeHead(403, { "content-type": "application/json" }).end(JSON.stringify({ errors }));
    return true;
  };
  await expect(upload()).rejects.toThrow(/was not stored: ada may not push here \(403 DENIED\)\. Push again/);
  expect(progress.retry).not.toHaveBeenCalled();
});

it("says so when a file changes under it", async () => {
  writeFileSync(join(folder, "weights-0.bin"), Buffer.alloc(1_100_000, 99));
  await expect(upload()).rejects.toThrow(/weights-0\.bin changed while it was pushed/);
  writeFileSync(join(folder, "weights-0.bin"), Buffer.alloc(5, 99));
  await expect(upload()).rejects.toThrow(/weights-0\.bin changed while it was/);
});
