import { createServer, type Server } from "node:http";
import { connect as connectTls } from "node:tls";
import { afterAll, beforeAll, expect, it } from "vitest";
import { RegistryRelay } from "./image-pull-relay.ts";

let edge: Server;
let url: string;

beforeAll(async () => {
  edge = createServer((request, response) => {
    let bytes = 0;
    request.on("data", (chunk: Buffer) => (bytes += chunk.length));
    request.on("end", () => response.end(`${request.method} ${request.url} ${bytes}`));
  });
  await new Promise<void>((resolve) => edge.listen(0, "127.0.0.1", resolve));
  const address = edge.address();
  url = `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
});

afterAll(() => {
  edge.closeAllConnections();
  edge.close();
});

it("passes requests on, and hangs up on TLS at once", async () => {
  const host = await new RegistryRelay(url).host();
  expect(`http://${host}`).not.toBe(url);
  const body = Buffer.alloc(3_000_000);
  const answer = await fetch(`http://${host}/v2/x`, { method: "PUT", body });
  expect(await answer.text()).toBe("PUT /v2/x 3000000");

  const [name = "", port = ""] = host.split(":");
  const began = Date.now();
  await new Promise<void>((resolve) =>
    connectTls({ host: name, port: Number(port), rejectUnauthorized: false }).once("error", () => resolve()),
  );
  expect(Date.now() - began).toBeLessThan(2_000);
});

it.each(["https://cogway.example", "http://10.0.0.7:8787"])("leaves %s as it is", async (edgeUrl) => {
  expect(await new RegistryRelay(edgeUrl).host()).toBe(new URL(edgeUrl).host);
});
