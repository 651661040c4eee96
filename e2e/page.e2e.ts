/** The web page in a real browser against the started system. */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { chromiumPath } from "./lib/chromium.ts";
import { Cli } from "./lib/cli.ts";
import { newCaller, operator } from "./lib/shared-system.ts";
import { modelFolder, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };
/** A cold boot of a model on a busy machine included. */
const RUN_TIMEOUT_MS = 60_000;
/** Search looks every minute for what it was not told. */
const INDEXED_WITHIN_MS = 120_000;

let browser: Browser;
let context: BrowserContext;
let page: Page;
let faults: string[];

beforeAll(async () => {
  browser = await chromium.launch({
    executablePath: chromiumPath(),
    // Containers have no user namespaces to build its sandbox from.
    args: ["--no-sandbox"],
  });
});
afterAll(() => browser?.close());
beforeEach(async () => {
  context = await browser.newContext({ viewport: DESKTOP });
  context.setDefaultTimeout(RUN_TIMEOUT_MS);
  page = await context.newPage();
  faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  // What the page's policy refuses is told here too.
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().includes("Failed to load resource")) faults.push(message.text());
  });
});
afterEach(() => context.close());

const status = () => page.getByRole("region", { name: "Result" }).getByRole("status");
const output = () => page.getByRole("region", { name: "Output", exact: true });

async function signIn(purpose: string) {
  const caller = await newCaller(purpose);
  await page.goto(`${caller.url}/#token=${caller.token}`);
  await page.getByRole("heading", { name: "Models" }).waitFor();
  return caller;
}

test("a model runs through the form, its text comes live, and the prediction is listed and has a page", async () => {
  const hosts = new Set<string>();
  page.on("request", (request) => hosts.add(new URL(request.url()).host));
  const caller = await signIn("page-run");
  expect(page.url()).toBe(`${caller.url}/`);

  await page.getByRole("link", { name: /cogway\/tokens\b(?!-)/ }).click();
  await page.getByRole("spinbutton", { name: "Count" }).fill("40");
  await page.getByRole("spinbutton", { name: "Delay ms", exact: true }).fill("50");
  await page.getByRole("button", { name: "Run" }).click();

  // Live: a first token is seen while the model still runs.
  await output().getByText("token 3").waitFor();
  expect(await status().textContent()).toBe("Running");
  await status().getByText("Succeeded").waitFor();
  const text = Array.from({ length: 40 }, (_, i) => `token ${i}\n`).join("");
  expect(await output().getByTestId("output-text").textContent()).toBe(text);
  await page.locator("summary", { hasText: "Logs" }).click();
  expect(await page.getByRole("region", { name: "Logs" }).textContent()).toContain("begun");

  const made = (await caller.request<{ results: { id: string; source: string }[] }>("GET", "/v1/predictions")).body
    .results;
  expect(made).toMatchObject([{ source: "web" }]);
  await page.getByRole("link", { name: "Its own page" }).click();
  expect(page.url()).toBe(`${caller.url}/p/${made[0]?.id}`);
  await page.reload();
  await page.getByText("token 39").waitFor();
  await page.getByRole("navigation").getByRole("link", { name: "Predictions" }).click();
  await page.getByRole("link", { name: /Succeeded.*cogway\/tokens/ }).waitFor();

  expect([...hosts]).toEqual([new URL(caller.url).host]);
  expect(faults).toEqual([]);
});

test("a running prediction is canceled from the page", async () => {
  await signIn("page-cancel");
  await page.goto(new URL("/cogway/slow", page.url()).href);
  await page.getByRole("spinbutton", { name: "Seconds" }).fill("60");
  await page.getByRole("button", { name: "Run" }).click();
  await status().getByText("Running").waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await status().getByText("Canceled").waitFor();
  expect(faults).toEqual([]);
});

test("a wrong value is named at its control and nothing is sent", async () => {
  const caller = await signIn("page-fault");
  await page.goto(`${caller.url}/cogway/tokens`);
  await page.getByRole("spinbutton", { name: "Count" }).fill("-3");
  await page.getByRole("button", { name: "Run" }).click();
  await page.getByText("Count must be at least 0").waitFor();
  // The focus is led to it.
  expect(await page.locator(":focus").getAttribute("name")).toContain("count");
  expect((await caller.request<{ results: unknown[] }>("GET", "/v1/predictions")).body.results).toEqual([]);
});

test("a failed prediction says what the model said, and its logs are open", async () => {
  await signIn("page-failed");
  await page.goto(new URL("/cogway/tokens", page.url()).href);
  await page.getByRole("spinbutton", { name: "Fail at" }).fill("2");
  await page.getByRole("button", { name: "Run" }).click();
  await page.getByRole("alert").getByText("broke in the middle").waitFor();
  await page.getByRole("region", { name: "Logs" }).getByText("begun").waitFor();
});

test("a picked file is shown and reaches the model", async () => {
  const caller = await signIn("page-file");
  await page.goto(`${caller.url}/cogway/inputs`);
  const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  const buffer = Buffer.from(pixel, "base64");
  await page.getByLabel("File, file").setInputFiles({ name: "pixel.png", mimeType: "image/png", buffer });
  await page.getByText("pixel.png").waitFor();
  await page.waitForFunction("document.querySelector('.file-input img')?.naturalWidth === 1");
  await page.getByRole("button", { name: "Run" }).click();
  await output()
    .getByRole("cell", { name: String(buffer.length) })
    .waitFor();
  expect(faults).toEqual([]);
});

test("a file above 1 MiB is uploaded, and the model reads it by its URL", async () => {
  const caller = await signIn("page-upload");
  await page.goto(`${caller.url}/cogway/inputs`);
  const buffer = Buffer.alloc(1024 * 1024 + 1, "x");
  const uploaded = page.waitForResponse((answer) => new URL(answer.url()).pathname === "/v1/files");
  await page.getByLabel("File, file").setInputFiles({ name: "large.txt", mimeType: "text/plain", buffer });
  expect((await uploaded).status()).toBe(201);
  await page.getByText("large.txt (1.0 MiB)").waitFor();
  await page.getByRole("button", { name: "Run" }).click();
  await output()
    .getByRole("cell", { name: buffer.length.toLocaleString("en-US") })
    .waitFor();
  const { results } = (await caller.request<{ results: { input: { file: string } }[] }>("GET", "/v1/predictions")).body;
  expect(results[0]?.input.file).toMatch(/^https?:.*\/v1\/files\/[^/]+$/);
  expect(faults).toEqual([]);
});

test("a search finds a model while it is typed, typos and all, and gives the list back", async () => {
  const caller = await signIn("page-search");
  await waitFor("the model in the index", INDEXED_WITHIN_MS, async () => {
    const path = "/v1/search?query=sentence+embeddings";
    const { models } = (await caller.request<{ models: { model: { name: string } }[] }>("GET", path)).body;
    return models.some(({ model }) => model.name === "minilm-embeddings") ? true : null;
  });
  await page.getByRole("heading", { name: "More models" }).waitFor();
  const box = page.getByRole("searchbox", { name: "Search models, collections and docs" });
  await box.pressSequentially("sentence embedings");
  await page.waitForURL((url) => url.searchParams.get("q") === "sentence embedings");
  await page
    .getByRole("status")
    .getByText(/\d+ models?/)
    .waitFor();
  await page.getByRole("link", { name: /cogway\/minilm-embeddings/ }).waitFor();
  expect(await box.inputValue()).toBe("sentence embedings");

  // Reloaded or shared, the address shows the same.
  await page.reload();
  await page.getByRole("link", { name: /cogway\/minilm-embeddings/ }).waitFor();
  await page.getByRole("navigation").getByRole("link", { name: "Models" }).click();
  await page.getByRole("heading", { name: "More models" }).waitFor();
  expect(await box.inputValue()).toBe("");
  expect(faults).toEqual([]);
});

test("the page of a prediction shows its webhooks' attempts, and sends one again", async () => {
  const caller = await signIn("page-webhooks");
  // No name server knows it, so every attempt fails in the same way.
  const webhook = "https://receiver.invalid/hook";
  const made = await caller.request<{ id: string }>("POST", "/v1/models/cogway/noop/predictions", {
    body: { input: {}, webhook, webhook_events_filter: ["completed"] },
    headers: { prefer: "wait", "cogway-retention": "forever" },
  });
  await page.goto(`${caller.url}/p/${made.body.id}`);
  await page.getByText("For ever").waitFor();
  const webhooks = page.getByRole("region", { name: "Webhooks" });
  await webhooks.getByText(webhook).waitFor();
  await webhooks.getByRole("cell", { name: "no connection to a public address" }).first().waitFor();
  await webhooks.getByText("Next attempt").waitFor();
  await webhooks.getByRole("button", { name: "Send completed again" }).click();
  await webhooks.getByRole("status").getByText("Sent again: no connection to a public address").waitFor();
  await webhooks.getByRole("cell", { name: "sent again" }).waitFor();

  // Without a webhook there is nothing to show.
  const plain = await caller.request<{ id: string }>("POST", "/v1/models/cogway/noop/predictions", {
    body: { input: {} },
    headers: { prefer: "wait" },
  });
  await page.goto(`${caller.url}/p/${plain.body.id}`);
  await page.getByText(/Until .*left/).waitFor();
  expect(await webhooks.count()).toBe(0);
  expect(faults).toEqual([]);
});

test("a batch is listed, its page shows its counts and gives its results", async () => {
  const caller = await signIn("page-batch");
  const inputs = Array.from({ length: 12 }, (_, i) => (i < 2 ? { count: 2, fail_at: 1 } : { count: 2 }));
  const made = await caller.request<{ id: string }>("POST", "/v1/batches", {
    body: { version: "cogway/tokens", inputs },
  });
  expect(made.status).toBe(201);
  await page.goto(`${caller.url}/p`);
  await page.getByRole("navigation", { name: "What ran" }).getByRole("link", { name: "Batches" }).click();
  await page.getByRole("link", { name: /cogway\/tokens/ }).click();
  await page.getByRole("heading", { name: made.body.id }).waitFor();
  await page.getByRole("img", { name: "12 of 12 ended" }).waitFor();
  expect(await page.locator("[data-part=succeeded] dd, [data-part=failed] dd").allTextContents()).toEqual(["10", "2"]);

  const saved = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download results" }).click();
  const download = await saved;
  expect(download.suggestedFilename()).toBe(`${made.body.id}.jsonl`);
  const lines = readFileSync(await download.path(), "utf8")
    .trimEnd()
    .split("\n");
  expect(lines.map((line) => JSON.parse(line).index)).toEqual(inputs.map((_, i) => i));
  expect(faults).toEqual([]);
});

test("a batch is canceled from its page", async () => {
  const caller = await signIn("page-batch-cancel");
  const made = await caller.request<{ id: string }>("POST", "/v1/batches", {
    body: { version: "cogway/slow", inputs: Array.from({ length: 6 }, () => ({ seconds: 60 })), max_concurrency: 1 },
  });
  // Its id is enough: nothing in the address says that it is a batch.
  await page.goto(`${caller.url}/p/${made.body.id}`);
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("status").getByText("Canceled").waitFor();
  await page.getByRole("button", { name: "Download results" }).waitFor();
  const { status } = (await caller.request<{ status: string }>("GET", `/v1/batches/${made.body.id}`)).body;
  expect(status).toBe("canceled");
});

test("pushes are followed on the page to their end or their cancel, and a version is rolled back to", async () => {
  // Only the operator's models are built without isolation.
  const caller = operator();
  const name = `page-push-${Date.now().toString(36)}`;
  const model = `cogway/${name}`;
  const folder = temporaryFolder();
  const home = temporaryFolder();
  const cli = new Cli(home, { COGWAY_URL: caller.url, COGWAY_TOKEN: caller.token });
  cpSync(modelFolder("noop"), folder, { recursive: true });
  // An origin builds what it knows already in no time at all.
  const source = `${readFileSync(join(folder, "predict.py"), "utf8")}\n# ${name}\n`;
  const push = async (predict: string) => {
    writeFileSync(join(folder, "predict.py"), predict);
    await cli.ok(["push", folder, model, "--detach"]);
  };
  const builds = page.getByRole("list", { name: "Builds" }).getByRole("link");
  const build = page.getByRole("region", { name: "Build", exact: true });
  const log = page.getByRole("region", { name: "Log", exact: true });
  try {
    await page.goto(`${caller.url}/#token=${caller.token}`);
    await page.getByRole("heading", { name: "Models" }).waitFor();
    await caller.request("POST", "/v1/models", {
      body: { owner: "cogway", name, visibility: "private", hardware: "cpu" },
    });
    await page.goto(`${caller.url}/${model}`);
    await page.getByText(`npx cogway push ./my-model ${model}`).waitFor();
    await page.getByText(`export COGWAY_URL=${caller.url}`).waitFor();

    await push(source);
    await page.getByRole("navigation", { name: "Of this model" }).getByRole("link", { name: "Builds" }).click();
    await builds.first().click();
    await build.getByRole("status").getByText("Succeeded").waitFor();
    await build.getByText("The first version").waitFor();
    await log.getByText("schema").waitFor();

    // One that goes on until it is canceled: it can be seen to go on.
    const loud = "import sys, time\nprint('still importing', file=sys.stderr, flush=True)\ntime.sleep(120)\n";
    await push(loud + source);
    await page.getByRole("link", { name: "All builds" }).click();
    await builds.nth(1).waitFor();
    await builds.filter({ hasText: /Building|Waiting/ }).click();
    await build.getByRole("status").getByText("Make the schema").waitFor();
    await build.getByRole("button", { name: "Cancel" }).click();
    await build.getByRole("status").getByText("Canceled").waitFor();

    await push(source.replace("note: str | None = None)", "note: str | None = None, loud: bool = False)"));
    await page.getByRole("link", { name: "All builds" }).click();
    await builds.nth(2).waitFor();
    await builds.first().click();
    await build.getByText("input.loud is new").waitFor();

    await page.getByRole("link", { name: "Versions" }).click();
    const versions = page.getByRole("list", { name: "Versions" }).locator("> li");
    await versions.first().getByText("Latest").waitFor();
    await versions.first().getByText("input.loud is new").waitFor();
    await versions.last().getByRole("button", { name: "Roll back to this version" }).click();
    const question = page.getByRole("dialog");
    await question.getByText("input.loud was removed").waitFor();
    await question.getByRole("button", { name: "Roll back" }).click();
    await versions.last().getByText("Latest").waitFor();
    await versions.first().getByRole("button", { name: "Make this the latest version" }).waitFor();
    const { body } = await caller.request<{ latest_version: { openapi_schema: unknown } }>(
      "GET",
      `/v1/models/${model}`,
    );
    expect(JSON.stringify(body.latest_version.openapi_schema)).not.toContain("loud");
    expect(faults).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
    rmSync(home, { recursive: true, force: true });
  }
});

test("what a run costs is told before it, on it and in the bill; a budget is set, and refuses", async () => {
  const caller = await signIn("page-billing");
  await page.goto(`${caller.url}/cogway/tokens`);
  await page.locator("summary", { hasText: /at worst|Costs|Free/ }).waitFor();
  await page.getByRole("spinbutton", { name: "Delay ms", exact: true }).fill("50");
  await page.getByRole("button", { name: "Run" }).click();
  await status().getByText("Succeeded").waitFor();
  await page.getByText(/in all, \$0\.0/).waitFor();

  await page.getByRole("navigation").getByRole("link", { name: "Billing" }).click();
  await page.getByRole("heading", { name: "Billing" }).waitFor();
  await page.getByRole("row", { name: /cogway\/tokens 1 / }).waitFor();
  await page.getByLabel("A day").fill("a lot");
  await page.getByText("Dollars, such as 25 or 0.50").waitFor();
  await page.getByLabel("A day").fill("0.000001");
  await page.getByLabel("Alert webhook").fill("http://127.0.0.1/");
  await page.getByRole("button", { name: "Save budgets" }).click();
  await page.getByText("Does not match format").waitFor();
  await page.getByLabel("Alert webhook").fill("");
  await page.getByRole("button", { name: "Save budgets" }).click();
  await page.getByText("Saved.").waitFor();

  await page.getByRole("link", { name: /20\d\d/ }).click();
  await page.getByRole("heading", { name: /So far in/ }).waitFor();
  await page.getByRole("row", { name: /cogway\/tokens/ }).waitFor();
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "CSV" }).click();
  expect((await download).suggestedFilename()).toMatch(/^invoice-.*\.csv$/);

  await page.goto(`${caller.url}/cogway/tokens`);
  await page.getByRole("button", { name: "Run" }).click();
  await page.getByRole("alert").getByText("Raise the budget").waitFor();
});

test("the status page tells live what waits and runs, and how an instance failed", async () => {
  const caller = await signIn("page-status");
  await page.getByRole("navigation").getByRole("link", { name: "Status" }).click();
  const row = page.getByRole("listitem").filter({ has: page.getByRole("link", { name: "cogway/slow", exact: true }) });
  await row.getByText("0 running").waitFor();
  const made = await caller.request<{ id: string }>("POST", "/v1/models/cogway/slow/predictions", {
    body: { input: { seconds: 60 } },
    headers: { prefer: "respond-async" },
  });
  await row.getByText("1 running").waitFor();
  await row.getByText("Online").waitFor();
  await row.getByText(/\d ready/).waitFor();
  await caller.request("POST", `/v1/predictions/${made.body.id}/cancel`);
  await row.getByText("0 running").waitFor();

  const idle = { queue_length: 0, running: 0, instances: {}, wanted_instances: 0, version: null };
  const last_error = { at: new Date().toISOString(), state: "failed", reason: "CUDA is out of memory" };
  const failed = { ...idle, model: "cogway/slow", state: "failed", reason: "setup failed", last_error };
  let results: unknown[] = [failed];
  await page.route("**/v1/status", (route) => route.fulfill({ json: { previous: null, next: null, results } }));
  await page.reload();
  await row.getByText("Failed", { exact: true }).waitFor();
  await row.getByText("Last worker error").click();
  await row.getByText("CUDA is out of memory").waitFor();
  results = [];
  await page.getByText("No models yet").waitFor();
  expect(faults).toEqual([]);
});

test("on a phone nothing is wider than the screen, and signing out forgets the token", async () => {
  const caller = await signIn("page-phone");
  await page.setViewportSize(PHONE);
  for (const path of [
    "/",
    "/cogway/tokens",
    "/cogway/minilm-embeddings",
    "/?q=embeddings",
    "/p",
    "/p?show=trainings",
    "/p?show=batches",
    "/cogway/tokens?show=versions",
    "/billing",
    "/status",
    `/billing/${new Date().toISOString().slice(0, 7)}`,
  ]) {
    await page.goto(caller.url + path);
    await page.getByRole("heading", { level: 1 }).waitFor();
    expect(
      await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"),
    ).toBeLessThanOrEqual(0);
  }
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in to Cogway" }).waitFor();
  expect(await page.evaluate("localStorage.length")).toBe(0);

  await page.getByLabel("Token").fill("cw_wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").getByText("not accepted").waitFor();
});
