/** `cogway push` as a whole, over a platform whose builds end as a test says; that real ones do is shown by e2e/push.e2e.ts. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import type { Build } from "../../../schema/client/index.ts";
import { newToken } from "../../../schema/tokens.ts";
import { Interrupts } from "./interrupts.ts";
import { runProgram } from "./program.ts";
import { Captured } from "./testing/captured.ts";
import { FakePlatform } from "./testing/fake-platform.ts";

const VERSION = "4f".repeat(32);
const BUILD = "b".repeat(26);

let platform: FakePlatform;
let folder: string;
let build: Build;
/** Last-Event-ID of each time that the build was followed */
let resumed: (string | undefined)[];
/** what the stream sends; a piece that ends without `done` is a connection that breaks */
let pieces: string[];
let hasModel: boolean;
let made: unknown;

beforeEach(async () => {
  platform = await FakePlatform.start();
  folder = mkdtempSync(join(tmpdir(), "cogway-push-"));
  writeFileSync(join(folder, "cog.yaml"), 'build:\n  python_version: "3.11"\nrun: "predict.py:Runner"\n');
  writeFileSync(join(folder, "predict.py"), "class Runner:\n    def run(self) -> str:\n        return 'x'\n");
  writeFileSync(join(folder, "example.json"), '{ "text": "it\'s" }');
  resumed = [];
  pieces = [done];
  hasModel = true;
  made = null;
  build = {
    ...{ id: BUILD, model: "ada/hello", manifest: "sha256:0", status: "succeeded", version: VERSION, error: null },
    ...{ created_at: "", completed_at: "", started_at: "", stage: "schema", stages: [], waiting_for: null, code: null },
    ...{ warnings: [], schema_diff: null, test_prediction: null },
    urls: { get: "", cancel: "", logs: "", events: "" },
  };
  platform.fault = (call, request, response) => api(call, request, response);
});
afterEach(() => {
  platform.stop();
  rmSync(folder, { recursive: true });
});

const status = `event: status\nid: 0\ndata: {"status":"building","stage":"environment","waiting_for":null}\n\n`;
const log = (place: number, text: string): string => `event: logs\nid: ${place}\ndata: ${text}\ndata: \n\n`;
const done = "event: done\nid: 9d\ndata: {}\n\n";

function api(call: string, request: IncomingMessage, response: ServerResponse): boolean {
  const json = (statusCode: number, body: unknown): true => {
    response.writeHead(statusCode, { "content-type": "application/json" }).end(JSON.stringify(body));
    return true;
  };
  switch (call) {
    case "GET /v1/models/ada/hello":
      return hasModel ? json(200, {}) : json(404, { code: "model.not_found", detail: "There is none." });
    case "POST /v1/models":
      request.on("data", (chunk: Buffer) => {
        made = JSON.parse(chunk.toString());
      });
      request.on("end", () => json(201, made));
      return true;
    case "POST /v1/models/ada/hello/builds":
      return json(201, build);
    case `GET /v1/models/ada/hello/builds/${BUILD}`:
      return json(200, build);
    case `GET /v1/models/ada/hello/builds/${BUILD}/events`: {
      resumed.push(request.headers["last-event-id"] as string | undefined);
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(pieces.shift() ?? done);
      return true;
    }
    default:
      return false;
  }
}

async function push(...flags: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [new Captured(), new Captured()];
  const env = { XDG_CONFIG_HOME: folder, COGWAY_URL: platform.url, COGWAY_TOKEN: newToken() };
  const world = { stdout, stderr, isInteractive: false, env, interrupts: new Interrupts() };
  const code = await runProgram(["push", folder, "ada/hello", ...flags], world);
  return { code, stdout: stdout.text, stderr: stderr.text };
}

it("ends with the version, its page and a line to paste", async () => {
  const { code, stdout, stderr } = await push();
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toContain(`✓ ada/hello:${VERSION}\n  1 of 1 layer new, `);
  expect(stdout).toContain(`  ${platform.url}/ada/hello\n`);
  expect(stdout.trimEnd().split("\n").at(-1)).toBe(
    `curl -s -H "Authorization: Bearer $COGWAY_TOKEN" -H "Content-Type: application/json" -H "Prefer: wait" -d '{"input":{"text":"it'\\''s"}}' ${platform.url}/v1/models/ada/hello/predictions`,
  );
  expect(stdout).not.toContain("\x1b");
  expect([...platform.manifests.values()].map((bytes) => JSON.parse(bytes.toString()).layers.length)).toEqual([1]);
});

it("makes a model that is missing: private, unless it is said otherwise", async () => {
  hasModel = false;
  await push();
  expect(made).toMatchObject({ owner: "ada", name: "hello", visibility: "private" });
  await push("--public");
  expect(made).toMatchObject({ visibility: "public" });
});

it("follows the build's log over connections that break: no line twice, the step in front", async () => {
  pieces = [status + log(4, "one"), log(8, "two"), done];
  const { code, stdout } = await push();
  expect(code).toBe(0);
  expect(resumed).toEqual([undefined, "4", "8"]);
  expect(stdout).toContain("environment The environment is made\nenvironment one\nenvironment two\n");
});

it("gives programs one JSON document a line and nothing else", async () => {
  pieces = [status + log(4, "one") + done];
  const { stdout, stderr } = await push("--json");
  const events = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: string });
  expect(events.map(({ event }) => event)).toEqual(["checked", "uploaded", "build", "stage", "logs", "done"]);
  expect(events.at(-1)).toMatchObject({ version: VERSION, layers: 1, layers_sent: 1 });
  expect(stderr).toBe("");
});

it("tells what changed for callers", async () => {
  const previous_version = "1".repeat(64);
  const [breaking, added, changed] = [["input.a was removed"], ["input.b is new"], []];
  build.schema_diff = { breaking, added, changed, previous_version };
  const { stdout } = await push();
  expect(stdout).toContain("schema      breaking input.a was removed\nschema      added input.b is new\n");
});

it("says why a build failed, in one message", async () => {
  build = { ...build, status: "failed", version: null, error: "requirements.txt: no such package: torhc" };
  const { code, stderr } = await push();
  expect({ code, stderr }).toEqual({ code: 1, stderr: "error requirements.txt: no such package: torhc\n" });
});

it("does not wait where it is told not to", async () => {
  const { code, stdout } = await push("--detach");
  expect(code).toBe(0);
  expect(stdout).toContain("cogway logs ada/hello");
  expect(resumed).toEqual([]);
});

it("sends nothing of a folder with faults", async () => {
  writeFileSync(join(folder, "cog.yaml"), 'build:\n  python_version: "3.11"\nrn: "predict.py:Runner"\n');
  const { code, stderr } = await push();
  expect(code).toBe(1);
  expect(stderr).toContain("cog.yaml:3:1");
  expect(platform.calls).toEqual([]);
});
