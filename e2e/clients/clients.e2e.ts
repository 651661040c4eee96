/** Replicate's clients, unchanged, over their whole surface: only the base URL and the token are set. Over http, then over https. */
import { afterAll, beforeAll, describe } from "vitest";
import { aiSdk } from "./ai-sdk.ts";
import { findGo, goClient } from "./go.ts";
import { javascriptClient } from "./javascript.ts";
import { javascriptOwned } from "./javascript-owned.ts";
import { pythonBetaClient, pythonClient } from "./python.ts";
import { PROTOCOLS, Stage } from "./stage.ts";

const go = findGo();
if (go === null) process.stderr.write("No `go` program is installed: the Go client is not tested.\n");

describe.each(PROTOCOLS)("%s", (protocol) => {
  let started: Stage | undefined;
  const stage = (): Stage => {
    if (started === undefined) throw new Error("the system has not started");
    return started;
  };
  beforeAll(async () => {
    started = await Stage.start(protocol);
  });
  afterAll(() => started?.stop());

  describe("npm replicate", () => {
    javascriptClient(protocol, stage);
    javascriptOwned(stage);
  });
  describe("npm @ai-sdk/replicate", () => aiSdk(stage));
  describe("PyPI replicate 1.x", () => pythonClient(stage));
  describe("PyPI replicate 2.x beta", () => pythonBetaClient(stage));
  if (go !== null) describe("Go replicate-go", () => goClient(go, stage));
});
