/** One real example through the whole way: real weights, structured output, its own example input. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Api, type Model, TERMINAL } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";
import { modelFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const NAME = "minilm-embeddings";
const input = JSON.parse(readFileSync(join(modelFolder(NAME), "example.json"), "utf8")) as { texts: string[] };

/** Booted on demand, beside everything else that the machine does. */
const EXAMPLE_TIMEOUT_MS = 120_000;

async function example(caller: Api): Promise<Model["default_example"]> {
  return waitFor("the example's end", EXAMPLE_TIMEOUT_MS, async () => {
    const { body } = await caller.request<Model>("GET", `/v1/models/cogway/${NAME}`);
    return body.default_example !== null && TERMINAL.includes(body.default_example.status)
      ? body.default_example
      : null;
  });
}

test("an example model shows a prediction that really ran, to every account", async () => {
  const caller = await newCaller("example");
  expect(await example(caller)).toMatchObject({
    model: `cogway/${NAME}`,
    status: "succeeded",
    input,
    data_removed: false,
  });
});

test("it tells which texts are alike", async () => {
  const caller = await newCaller("example");
  const prediction = await caller.run(NAME, input);
  expect(prediction.status).toBe("succeeded");
  const { embeddings, nearest } = prediction.output as {
    embeddings: { embedding: number[] }[];
    nearest: { index: number; nearest: number; cosine: number }[];
  };
  expect(embeddings.map(({ embedding }) => embedding.length)).toEqual(input.texts.map(() => 384));
  // Of the example's texts, eating food is most like having a piece of bread.
  expect(nearest.find(({ index }) => index === 0)?.nearest).toBe(1);
});
