/**
 * COGWAY_TLS=1: a local certificate, made once, and a front that takes TLS off. The front passes bytes on and reads none of them: streams, aborts and upgrades
 * are the Worker's as they are without it.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { createServer, type Server } from "node:tls";
import { generate } from "selfsigned";

const VALID_DAYS = 397;
const DAY_MS = 86_400_000;

export interface LocalCertificate {
  key: string;
  /** the server's certificate, then the authority's */
  chain: string;
  /** what clients are told to trust */
  authorityPath: string;
}

/** The kept certificate for 127.0.0.1 and localhost. The authority's private key is not kept: nothing else can be signed with it. */
export async function localCertificate(dataDir: string): Promise<LocalCertificate> {
  const folder = join(dataDir, "tls");
  const paths = {
    key: join(folder, "key.pem"),
    chain: join(folder, "chain.pem"),
    authority: join(folder, "authority.pem"),
  };
  if (!Object.values(paths).every((path) => existsSync(path))) {
    const made = await makeCertificate();
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(paths.authority, made.authority);
    writeFileSync(paths.chain, made.chain);
    writeFileSync(paths.key, made.key, { mode: 0o600 });
  }
  return {
    key: readFileSync(paths.key, "utf8"),
    chain: readFileSync(paths.chain, "utf8"),
    authorityPath: paths.authority,
  };
}

/** An authority and a certificate that it signed: some clients refuse one that is both. */
async function makeCertificate(): Promise<{ key: string; chain: string; authority: string }> {
  const common = {
    keyType: "ec" as const,
    algorithm: "sha256",
    notBeforeDate: new Date(Date.now() - DAY_MS),
    notAfterDate: new Date(Date.now() + VALID_DAYS * DAY_MS),
  };
  const authority = await generate([{ name: "commonName", value: "Cogway local authority" }], {
    ...common,
    extensions: [
      { name: "basicConstraints", cA: true, critical: true },
      { name: "keyUsage", keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  const server = await generate([{ name: "commonName", value: "localhost" }], {
    ...common,
    ca: { key: authority.private, cert: authority.cert },
    extensions: [
      { name: "basicConstraints", cA: false, critical: true },
      { name: "keyUsage", digitalSignature: true, critical: true },
      { name: "extKeyUsage", serverAuth: true },
      {
        name: "subjectAltName",
        altNames: [
          { type: 2, value: "localhost" },
          { type: 7, ip: "127.0.0.1" },
        ],
      },
    ],
  });
  return { key: server.private, chain: `${server.cert}\n${authority.cert}\n`, authority: `${authority.cert}\n` };
}

/** Listens on `port` with TLS and passes everything on to `target` on loopback. */
export async function startTlsFront(port: number, target: number, certificate: LocalCertificate): Promise<Server> {
  const server = createServer(
    { key: certificate.key, cert: certificate.chain, ALPNProtocols: ["http/1.1"] },
    (outer) => {
      const inner = connect(target, "127.0.0.1");
      outer.pipe(inner).pipe(outer);
      outer.on("error", () => inner.destroy());
      inner.on("error", () => outer.destroy());
      outer.on("close", () => inner.destroy());
      inner.on("close", () => outer.destroy());
    },
  );
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  return server;
}
