/** What the runtime does to bodies on their way in. */
import { Hono } from "hono";
import { expect, it } from "vitest";
import type { AppEnv } from "./env.ts";
import { jsonBody } from "./middleware/json-body.ts";

it("guarantees every character of a body, wherever the network cuts it, less a byte order mark at its start", async () => {
  const app = new Hono<AppEnv>().post("/", jsonBody(1_000), async (c) => c.text(await c.req.text()));
  const text = '{"text":"a\ufeffb\u{1f600}\ufeff"}';
  for (const mark of ["", "\ufeff"]) {
    const bytes = new TextEncoder().encode(mark + text);
    for (let cut = 0; cut <= bytes.length; cut++) {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          for (const part of [bytes.slice(0, cut), bytes.slice(cut)]) if (part.length > 0) controller.enqueue(part);
          controller.close();
        },
      });
      const answer = await app.request("/", { method: "POST", body });
      expect(await answer.text()).toBe(text);
    }
  }
});
