import { beforeEach, expect, test } from "vitest";
import type { Answer, Api, Page, Prediction, Problem } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";
import { waitFor } from "./lib/wait.ts";

let caller: Api;
beforeEach(async () => {
  caller = await newCaller("idempotency");
});

/** As a well-behaved client does it: sends again while the first request is unanswered. */
function createOnce(key: string, input: Record<string, unknown>, wait?: number): Promise<Answer<Prediction>> {
  return waitFor("an answer that is not 409", 30_000, async () => {
    const answer = await caller.tryCreate("slow", input, {
      headers: { "idempotency-key": key, ...(wait === undefined ? {} : { prefer: `wait=${wait}` }) },
    });
    if (answer.status !== 409) return answer;
    expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
    return null;
  });
}

async function listed(): Promise<string[]> {
  const { body } = await caller.request<Page<Prediction>>("GET", "/v1/predictions");
  return body.results.map(({ id }) => id);
}

test("one key from twenty clients at once is one prediction and one answer", async () => {
  const answers = await Promise.all(Array.from({ length: 20 }, () => createOnce("k1", { seconds: 0.2 }, 30)));
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201]));
  expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
  expect(await listed()).toEqual([answers[0]?.body.id]);
});

test("a replay has the bytes of the first answer, also after the prediction went on", async () => {
  const first = await createOnce("k2", { seconds: 0.1 });
  await caller.untilEnd(first.body);
  const replay = await createOnce("k2", { seconds: 0.1 });
  expect([replay.status, replay.text]).toEqual([first.status, first.text]);
  const quoted = await createOnce('"k2"', { seconds: 0.1 });
  expect(quoted.text).toBe(first.text);
});

test("a key with another body is 422, and of another account it is another key", async () => {
  const first = await createOnce("k3", { seconds: 0 });
  const reused = await caller.tryCreate<Problem>("slow", { seconds: 0.1 }, { headers: { "idempotency-key": "k3" } });
  expect(reused).toMatchObject({ status: 422, body: { code: "idempotency.key_reused" } });
  caller = await newCaller("idempotency-other");
  const others = await createOnce("k3", { seconds: 0 });
  expect(others.body.id).not.toBe(first.body.id);
});

test("a request that was refused keeps no key; a key of 256 characters is refused", async () => {
  const headers = { "idempotency-key": "k4" };
  expect((await caller.tryCreate("slow", { seconds: "long" }, { headers })).status).toBe(422);
  expect((await createOnce("k4", { seconds: 0 })).status).toBe(201);
  const long = await caller.tryCreate("slow", {}, { headers: { "idempotency-key": "x".repeat(256) } });
  expect(long.status).toBe(400);
});
