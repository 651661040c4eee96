/** The npm client `replicate`, with base URL and token changed and nothing else. */
import Replicate from "replicate";
import { beforeAll, expect, test } from "vitest";
import { newCaller } from "./lib/shared-system.ts";

let replicate: Replicate;
beforeAll(async () => {
  const caller = await newCaller("client");
  replicate = new Replicate({ auth: caller.token, baseUrl: `${caller.url}/v1` });
});

test("run: blocking, by polling, and by version", async () => {
  expect(await replicate.run("cogway/noop", { input: { text: "hi" } })).toBe("hi");
  const seen: string[] = [];
  const output = await replicate.run(
    "cogway/slow",
    { input: { seconds: 1 }, wait: { mode: "poll", interval: 100 } },
    ({ status }) => seen.push(status),
  );
  expect(output).toBe("done");
  expect(seen.at(-1)).toBe("succeeded");
  const { latest_version } = await replicate.models.get("cogway", "noop");
  expect(await replicate.run(`cogway/noop:${latest_version?.id}`, { input: { text: "v" } })).toBe("v");
});

test("run of a model that is slower than the wait goes on by polling", async () => {
  const output = await replicate.run("cogway/slow", { input: { seconds: 2.5 }, wait: { mode: "block", timeout: 1 } });
  expect(output).toBe("done");
});

test("run of a model that fails throws its words", async () => {
  await expect(replicate.run("cogway/crash", { input: { how: "raise" } })).rejects.toThrow(
    "Prediction failed: ValueError: boom",
  );
});

test("stream", async () => {
  const events: { event: string; data: string }[] = [];
  for await (const { event, data } of replicate.stream("cogway/tokens", { input: { count: 4, delay_ms: 20 } })) {
    events.push({ event, data });
  }
  const output = events.filter(({ event }) => event === "output").map(({ data }) => data);
  expect(output).toEqual(["token 0\n", "token 1\n", "token 2\n", "token 3\n"]);
  expect(events.at(-1)).toEqual({ event: "done", data: "{}" });
});

test("cancel, by an aborted signal", async () => {
  const controller = new AbortController();
  let id = "";
  await replicate.run(
    "cogway/slow",
    { input: { seconds: 100 }, wait: { mode: "poll", interval: 50 }, signal: controller.signal },
    (prediction) => {
      id = prediction.id;
      if (prediction.status === "processing") controller.abort();
    },
  );
  expect((await replicate.predictions.get(id)).status).toBe("canceled");
});

test("a 422 tells all faults", async () => {
  const input = { count: -1, delay_ms: "fast", stamp: 3 };
  const error: unknown = await replicate.run("cogway/tokens", { input }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(Error);
  const { response, message } = error as Error & { response: Response };
  expect(response.status).toBe(422);
  for (const field of ["input.count", "input.delay_ms", "input.stamp"]) expect(message).toContain(field);
});

test("predictions: create, get, list and its pages; models; account", async () => {
  const made = await replicate.predictions.create({ model: "cogway/noop", input: { text: "made" } });
  expect(["starting", "processing", "succeeded"]).toContain(made.status);
  const end = await replicate.wait(made, {});
  expect(end).toMatchObject({ status: "succeeded", output: "made" });
  const ids: string[] = [];
  for await (const page of replicate.paginate(replicate.predictions.list)) ids.push(...page.map(({ id }) => id));
  expect(ids).toContain(made.id);
  const models = await replicate.models.list();
  expect(models.results.map(({ owner, name }) => `${owner}/${name}`)).toContain("cogway/noop");
  expect((await replicate.models.versions.list("cogway", "noop")).results ?? []).not.toEqual([]);
  expect(await replicate.accounts.current()).toMatchObject({ type: "user", username: expect.any(String) });
});
