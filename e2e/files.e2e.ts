import { createHash } from "node:crypto";
import { beforeAll, expect, test } from "vitest";
import { type Api, streamUrl } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";
import { StreamReader } from "./lib/sse.ts";

let caller: Api;
beforeAll(async () => {
  caller = await newCaller("files");
});

test("a file output is served from its own address, cached, with ranges", async () => {
  const prediction = await caller.run("files", { name: "out.png", size: 1000 });
  const url = String(prediction.output);
  expect(url.startsWith(`${caller.url}/outputs/${prediction.id}/0/out.png?`)).toBe(true);

  const first = await fetch(url);
  expect(first.status).toBe(200);
  expect(await first.text()).toBe("1".repeat(1000));
  const header = (name: string): string | null => first.headers.get(name);
  expect(header("content-type")).toBe("image/png");
  expect(header("content-length")).toBe("1000");
  expect(header("accept-ranges")).toBe("bytes");
  expect(header("x-content-type-options")).toBe("nosniff");
  expect(header("cache-control")).toMatch(/max-age=\d+/);
  expect(header("access-control-allow-origin")).toBe("*");
  expect(header("x-cogway-cache")).toBe("MISS");
  const etag = header("etag") ?? "";
  expect(etag).toMatch(/^"[^"]+"$/);

  const second = await fetch(url, { headers: { authorization: "Bearer nonsense" } });
  expect(await second.text()).toBe("1".repeat(1000));
  expect([second.status, second.headers.get("x-cogway-cache"), second.headers.get("etag")]).toEqual([200, "HIT", etag]);

  const range = await fetch(url, { headers: { range: "bytes=10-19" } });
  expect(range.status).toBe(206);
  expect(range.headers.get("content-range")).toBe("bytes 10-19/1000");
  expect(await range.text()).toBe("1".repeat(10));
  const outside = await fetch(url, { headers: { range: "bytes=2000-" } });
  await outside.body?.cancel();
  expect(outside.status).toBe(416);
  const unchanged = await fetch(url, { headers: { "if-none-match": etag } });
  expect(unchanged.status).toBe(304);
});

test("an output's address cannot be bent", async () => {
  const url = new URL(String((await caller.run("files", {})).output));
  const bent = [
    url.href.replace("/0/", "/1/"),
    url.href.replace("out.png", "out.txt"),
    url.href.slice(0, -1) + (url.href.endsWith("A") ? "B" : "A"),
    `${url.origin}${url.pathname}`,
  ];
  for (const address of bent) {
    const answer = await fetch(address);
    await answer.body?.cancel();
    expect(answer.status).toBe(404);
  }
});

test("a file that a browser would run is a download", async () => {
  const answer = await fetch(String((await caller.run("files", { name: "page.html" })).output));
  await answer.body?.cancel();
  expect(answer.headers.get("content-disposition")).toMatch(/^attachment/);
});

test("a large file arrives whole", async () => {
  const size = 20_000_000;
  const url = String((await caller.run("files", { name: "large.bin", size })).output);
  const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
  const digest = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");
  expect(digest(bytes)).toBe(digest(new TextEncoder().encode("1".repeat(size))));
});

test("a model that yields files streams each of them", async () => {
  const prediction = await caller.create("file-iterator", { count: 3 });
  expect(new URL(streamUrl(prediction)).pathname).toMatch(/^\/v1\/files\/streams\//);
  const reader = await StreamReader.readAll(streamUrl(prediction));
  const urls = reader.outputs();
  const texts = await Promise.all(urls.map(async (url) => (await fetch(url)).text()));
  expect(texts).toEqual(["frame 0", "frame 1", "frame 2"]);
  expect((await caller.untilEnd(prediction)).output).toEqual(urls);
});

test("a list of files keeps its order", async () => {
  const { output } = await caller.run("file-list", { count: 4 });
  const lengths = await Promise.all((output as string[]).map(async (url) => (await (await fetch(url)).text()).length));
  expect(lengths).toEqual([2_000_000, 1, 1, 1]);
});
