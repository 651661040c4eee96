/** COGWAY_TLS=1: https with a local certificate, so that official clients wrap file outputs. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import tls from "node:tls";
import Replicate from "replicate";
import { afterAll, beforeAll, expect, test } from "vitest";
import { System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const data = temporaryFolder();
const trusted = tls.getCACertificates("default");
let system: System;

/** As a user does who is told to trust the local authority. */
async function trustLocalAuthority(): Promise<void> {
  const authority = await waitFor("the local authority", 120_000, () =>
    readFileSync(join(data, "tls/authority.pem"), "utf8"),
  );
  tls.setDefaultCACertificates([...trusted, authority]);
}

beforeAll(async () => {
  const starting = System.start({ models: ["files", "tokens"], env: { COGWAY_TLS: "1" }, data });
  await Promise.all([trustLocalAuthority(), starting]);
  system = await starting;
});
afterAll(async () => {
  tls.setDefaultCACertificates(trusted);
  await system.stop();
  rmSync(data, { recursive: true, force: true });
});

test("the client wraps a file output, and reads it", async () => {
  const replicate = new Replicate({ auth: system.api.token, baseUrl: `${system.url}/v1` });
  const output = (await replicate.run("cogway/files", { input: { name: "out.png", size: 12 } })) as {
    url(): URL;
    blob(): Promise<Blob>;
  };
  expect(output.url().href.startsWith(`https://127.0.0.1:${system.ports.edge}/outputs/`)).toBe(true);
  expect(await (await output.blob()).text()).toBe("1".repeat(12));
});

test("streams are https too", async () => {
  const replicate = new Replicate({ auth: system.api.token, baseUrl: `${system.url}/v1` });
  const events: string[] = [];
  for await (const { event } of replicate.stream("cogway/tokens", { input: { count: 2 } })) events.push(event);
  expect(events.filter((event) => event === "output")).toHaveLength(2);
  expect(events.at(-1)).toBe("done");
});
