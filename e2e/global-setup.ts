/** Starts one system for all scenarios that leave it as it was; those that kill something start their own. */
import type { TestProject } from "vitest/node";
import { System } from "./lib/system.ts";

/** Test models, and the smallest real example: example.e2e.ts checks what it gives. */
const MODELS = [
  "noop",
  "tokens",
  "tokens-async",
  "slow",
  "uncancellable",
  "crash",
  "inputs",
  "files",
  "file-iterator",
  "file-list",
  "broken-setup",
];
const EXAMPLE = "minilm-embeddings";

declare module "vitest" {
  export interface ProvidedContext {
    system: { url: string; token: string };
  }
}

/** With COGWAY_TEST_URL and COGWAY_TEST_TOKEN set, a system that runs already is used: quicker while one scenario is worked on. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { COGWAY_TEST_URL: url, COGWAY_TEST_TOKEN: token } = process.env;
  if (url !== undefined && token !== undefined) {
    project.provide("system", { url, token });
    return async () => {};
  }
  const system = await System.start({ models: [...MODELS, EXAMPLE] });
  project.provide("system", { url: system.url, token: system.api.token });
  return () => system.stop();
}
