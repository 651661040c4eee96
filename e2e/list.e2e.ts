import { expect, test } from "vitest";
import type { Page, Prediction } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";

const PAGE_SIZE = 100;

test("create, then list shows it at once, newest first", async () => {
  const caller = await newCaller("list");
  const made: Prediction[] = [];
  for (let i = 0; i < 3; i++) {
    made.unshift(await caller.create("noop", { text: String(i) }));
    const { body } = await caller.request<Page<Prediction>>("GET", "/v1/predictions");
    expect(body.results.map(({ id }) => id)).toEqual(made.map(({ id }) => id));
  }
  for (const prediction of made) await caller.untilEnd(prediction);
  const { body } = await caller.request<Page<Prediction>>("GET", "/v1/predictions");
  const gets = await Promise.all(made.map((prediction) => caller.get(prediction)));
  expect(body.results).toEqual(gets);
});

test("pages visit each prediction once, while new ones are made", async () => {
  const caller = await newCaller("pages");
  const ids = new Set<string>();
  const create = async (): Promise<string> => (await caller.create("tokens-async", { count: 1 })).id;
  for (let i = 0; i < PAGE_SIZE + 20; i += 20) {
    for (const id of await Promise.all(Array.from({ length: 20 }, create))) ids.add(id);
  }
  const seen: string[] = [];
  let next: string | null = "/v1/predictions";
  while (next !== null) {
    const page: Page<Prediction> = (await caller.request<Page<Prediction>>("GET", next)).body;
    seen.push(...page.results.map(({ id }) => id));
    expect(page.results.length).toBeLessThanOrEqual(PAGE_SIZE);
    next = page.next;
    if (next !== null) {
      expect(next.startsWith(`${caller.url}/v1/predictions?`)).toBe(true);
      await create();
    }
  }
  expect(seen.length).toBe(PAGE_SIZE + 20);
  expect(new Set(seen)).toEqual(ids);
});
