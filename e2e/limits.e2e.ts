/** Limits, tokens and Cogway's own client over real HTTP, and through a kill of the edge: what was used up stays used up, what was revoked stays revoked. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { Cogway } from "../schema/client/index.ts";
import type { Api, Prediction, Problem } from "./lib/api.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

let system: System;
beforeAll(async () => {
  system = await System.start({ models: ["noop", "tokens"] });
});
afterAll(() => system?.stop());

test("a create limit is not refilled by a crash, and its Retry-After is true", async () => {
  const limited = await system.api.newAccount("limited", { creates_per_minute: 2 });
  const create = () => limited.tryCreate<Prediction & Problem>("noop", {});
  expect([(await create()).status, (await create()).status, (await create()).status]).toEqual([201, 201, 429]);
  await system.restartEdge();
  const refused = await create();
  expect(refused.status).toBe(429);
  expect(refused.headers.get("ratelimit-policy")).toBe('"creates";q=2;w=60');
  const seconds = Number(refused.headers.get("retry-after"));
  expect(refused.body.retry_after).toBe(seconds);
  // Refusals do not count, so asking on the way changes nothing.
  await waitFor("an admitted create", seconds * 1_000, async () => ((await create()).status === 201 ? true : null));
});

test("a revoked token is refused everywhere within five seconds, and after a restart", async () => {
  const owner = await system.api.newAccount("revoker");
  const cogway = new Cogway({ baseUrl: owner.url, token: owner.token });
  const { id, token } = await cogway.tokens.create({ name: "short-lived", scopes: ["account:read"] });
  const status = async (by: Api | string) => {
    const headers = { authorization: `Bearer ${typeof by === "string" ? by : by.token}` };
    return (await fetch(`${owner.url}/v1/account`, { headers })).status;
  };
  expect(await status(token)).toBe(200);
  await cogway.tokens.revoke(id);
  await waitFor("its end", 5_000, async () => ((await status(token)) === 401 ? true : null));
  await system.restartEdge();
  expect([await status(token), await status(owner)]).toEqual([401, 200]);
});

test("the client follows a prediction through a kill of the edge", async () => {
  const owner = await system.api.newAccount("follower");
  const cogway = new Cogway({ baseUrl: owner.url, token: owner.token });
  const count = 200;
  const made = await cogway.predictions.create({ model: "cogway/tokens", input: { count, delay_ms: 20 } });
  const waiting = cogway.predictions.wait(made.id, { timeoutMs: 60_000 });
  const outputs: string[] = [];
  let isKilled = false;
  for await (const { event, data } of cogway.predictions.events(made)) {
    if (event === "output") outputs.push(data);
    if (outputs.length < 20 || isKilled) continue;
    isKilled = true;
    system.killEdge();
  }
  expect(outputs).toEqual(Array.from({ length: count }, (_, i) => `token ${i}\n`));
  expect(await waiting).toMatchObject({ id: made.id, status: "succeeded", output: outputs });
});
