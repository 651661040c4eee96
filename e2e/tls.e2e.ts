/** COGWAY_TLS=1: https with a local certificate, so that official clients wrap file outputs. */
import tls from "node:tls";
import Replicate from "replicate";
import { afterAll, beforeAll, expect, test } from "vitest";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

let system: System;
const trusted = tls.getCACertificates("default");

/** Trusts whatever certificate the started edge shows, as a user would after looking at it. */
async function trustCertificateOf(port: number): Promise<void> {
  const certificate = await waitFor("a certificate", 120_000, () => readCertificate(port));
  tls.setDefaultCACertificates([...trusted, certificate]);
}

function readCertificate(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => {
      const base64 = socket
        .getPeerCertificate()
        .raw.toString("base64")
        .replace(/(.{64})/g, "$1\n");
      socket.destroy();
      resolve(`-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`);
    });
    socket.on("error", reject);
  });
}

beforeAll(async () => {
  const ports = await System.freePorts();
  const starting = System.start({ models: ["files", "tokens"], env: { COGWAY_TLS: "1" }, ports });
  await Promise.all([trustCertificateOf(ports.edge), starting]);
  system = await starting;
});
afterAll(async () => {
  tls.setDefaultCACertificates(trusted);
  await system.stop();
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
