import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, it } from "vitest";
import { CogClient } from "./cog-client.ts";

const MEBIBYTE = 1024 ** 2;
let server: Server;
let client: CogClient;

/** A stream whose one event never ends. */
beforeAll(async () => {
  const chunk = "x".repeat(MEBIBYTE);
  server = createServer((_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write("event: start\ndata: {}\n\nevent: output\ndata: ");
    const more = (): void => {
      while (!response.destroyed && response.write(chunk));
    };
    response.on("drain", more);
    more();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  client = new CogClient({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
});
afterAll(() => server.close());

it("gives up on an event that is larger than memory allows, and says what the model can do instead", async () => {
  const events: string[] = [];
  const call = await client.predict("a1", {}, (event) => events.push(event.type), new AbortController().signal);
  expect(call).toMatchObject({ kind: "oversized", detail: expect.stringContaining("return the file itself") });
  expect(events).toEqual(["start"]);
}, 60_000);
