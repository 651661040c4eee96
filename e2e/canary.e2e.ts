/** A model whose example fails, over the real system: canaries find out, callers are told everywhere, and the first good version ends it. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Model as WireModel } from "./lib/api.ts";
import { chromiumPath } from "./lib/chromium.ts";
import { modelFolder, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

/** Instead of a day. */
const INTERVAL = "2s";
/** Three of these intervals and cold boots, on a busy machine. */
const LEARNED_WITHIN_MS = 120_000;

interface Health {
  status: string;
  failures_in_row: number;
  last_error: string | null;
  last_success_at: string | null;
}
type Model = WireModel & {
  unhealthy_since: string | null;
  latest_version: { id: string; health: Health | null } | null;
};

const folder = temporaryFolder();
const data = temporaryFolder();
let system: System;
let browser: Browser;

beforeAll(async () => {
  browser = await chromium.launch({ executablePath: chromiumPath(), args: ["--no-sandbox"] });
  writeModel('raise ValueError("the weights are gone")');
  system = await start();
});
afterAll(async () => {
  await browser?.close();
  await system?.stop();
  for (const path of [folder, data]) rmSync(path, { recursive: true, force: true });
});

function writeModel(body: string): void {
  const model = join(folder, "fickle");
  mkdirSync(model, { recursive: true });
  writeFileSync(join(model, "cog.yaml"), 'build:\n  python_version: "3.11"\nrun: "predict.py:Runner"\n');
  writeFileSync(join(model, "example.json"), '{"text": "hello"}');
  writeFileSync(
    join(model, "predict.py"),
    `from cog import BaseRunner\n\n\nclass Runner(BaseRunner):\n    def run(self, text: str) -> str:\n        ${body}\n`,
  );
}

function start(): Promise<System> {
  const models = [modelFolder("noop"), join(folder, "fickle")].join(",");
  const env = { COGWAY_MODELS: models, COGWAY_CANARY_INTERVAL: INTERVAL };
  return System.start({ models: ["noop"], data, env });
}

const model = async (name: string): Promise<Model> =>
  (await system.api.request<Model>("GET", `/v1/models/cogway/${name}`)).body;

async function found(): Promise<Model | undefined> {
  const answer = await system.api.request<{ models: { model: Model }[] }>("GET", "/v1/search?query=fickle");
  return answer.body.models.find(({ model: { name } }) => name === "fickle")?.model;
}

async function opened(): Promise<Page> {
  const page = await browser.newPage();
  await page.goto(`${system.url}/#token=${system.api.token}`);
  await page.getByRole("navigation", { name: "Main" }).waitFor();
  // Its example is on this page too, among what ran last.
  await page.locator(".model-card a", { hasText: "cogway/fickle" }).click();
  await page.getByRole("heading", { name: "Fickle" }).waitFor();
  return page;
}

test("three failures of its example make a model unhealthy in API, search and page, and a good version makes it well", async () => {
  const bad = await waitFor("the model is unhealthy", LEARNED_WITHIN_MS, async () => {
    const now = await model("fickle");
    return now.unhealthy_since === null ? null : now;
  });
  const health = await waitFor("its version says why", LEARNED_WITHIN_MS, async () => {
    const now = (await model("fickle")).latest_version?.health ?? null;
    return now?.status === "unhealthy" ? now : null;
  });
  expect(health.failures_in_row).toBeGreaterThanOrEqual(3);
  expect(health).toMatchObject({ last_success_at: null });
  expect(health.last_error).toContain("the weights are gone");
  await waitFor("search knows", LEARNED_WITHIN_MS, async () => ((await found())?.unhealthy_since ? true : null));
  // A model without an example has defaults; it is well.
  await waitFor("the other model is well", LEARNED_WITHIN_MS, async () =>
    (await model("noop")).latest_version?.health?.status === "healthy" ? true : null,
  );
  const page = await opened();
  await page.getByText("This model is unhealthy").waitFor();
  expect(await page.getByText("Unhealthy", { exact: true }).count()).toBeGreaterThan(0);
  expect(await page.getByRole("region", { name: "How it runs" }).textContent()).toMatch(/failed \d+ times in a row/);
  await page.close();

  await system.stop();
  writeModel("return text");
  system = await start();
  await waitFor("the model is well", LEARNED_WITHIN_MS, async () => {
    const now = await model("fickle");
    return now.latest_version?.id !== bad.latest_version?.id && now.unhealthy_since === null ? true : null;
  });
  await waitFor("its version is", LEARNED_WITHIN_MS, async () =>
    (await model("fickle")).latest_version?.health?.status === "healthy" ? true : null,
  );
  await waitFor("search knows", LEARNED_WITHIN_MS, async () =>
    (await found())?.unhealthy_since === null ? true : null,
  );
  const after = await opened();
  await after.getByText(/Its example worked/).waitFor();
  expect(await after.getByText("This model is unhealthy").count()).toBe(0);
  await after.close();
  // By now the counters have heard of all that ran so far: each version's example was one run, and canaries are none.
  expect((await model("noop")).run_count).toBe(0);
  expect((await model("fickle")).run_count).toBeLessThanOrEqual(2);
}, 300_000);
