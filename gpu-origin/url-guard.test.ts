import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { webhookUrlFault } from "../schema/public-url.ts";
import { type DownloadBounds, downloadGuarded } from "./guarded-download.ts";
import { temporaryFolder } from "./testing/harness.ts";
import { checkUrl, type UrlPolicy } from "./url-guard.ts";

/** Addresses that lead into this host, its network, its cloud's metadata, or nowhere public. */
const HOSTILE_IPV4 = [
  "0.0.0.0",
  "0.1.2.3",
  "10.0.0.1",
  "10.255.255.255",
  "100.64.0.1",
  "100.127.255.254",
  "127.0.0.1",
  "127.0.0.2",
  "127.255.255.254",
  "169.254.0.1",
  "169.254.169.254",
  "169.254.170.2",
  "172.16.0.1",
  "172.31.255.254",
  "192.0.0.1",
  "192.0.0.192",
  "192.0.2.1",
  "192.31.196.1",
  "192.52.193.1",
  "192.88.99.1",
  "192.168.0.1",
  "192.168.255.254",
  "192.175.48.1",
  "198.18.0.1",
  "198.19.255.254",
  "198.51.100.1",
  "203.0.113.1",
  "224.0.0.1",
  "239.255.255.255",
  "240.0.0.1",
  "255.255.255.255",
];

/** Other ways to write 127.0.0.1, 10.0.0.1 and 169.254.169.254. */
const HOSTILE_SPELLINGS = [
  "127.1",
  "127.0.1",
  "2130706433",
  "0x7f000001",
  "0x7f.1",
  "0x7f.0.0.1",
  "0X7F.0.0.1",
  "017700000001",
  "0177.0.0.1",
  "0177.1",
  "0x7f.0x0.0x0.0x1",
  "127.0.0.1.",
  "0x7f000001.",
  "00000177.0.0.1",
  "127.000.000.001",
  "１２７.0.0.1",
  "１２７．０．０．１",
  "127。0。0。1",
  "①②⑦.0.0.1",
  "10.1",
  "167772161",
  "0xa000001",
  "012.0.0.1",
  "0xa.1",
  "2852039166",
  "0xa9fea9fe",
  "0xa9.0xfe.0xa9.0xfe",
  "0251.0376.0251.0376",
  "169.254.43518",
  "0251.0xfe.43518",
  "%31%32%37.0.0.1",
  "127%2e0%2e0%2e1",
  "0",
  "0.0",
  "00",
  "0x0",
  "1",
  "0x1",
  "255.1",
];

const HOSTILE_IPV6 = [
  "::",
  "::1",
  "0:0:0:0:0:0:0:1",
  "0000::0001",
  "::127.0.0.1",
  "::7f00:1",
  "::ffff:127.0.0.1",
  "::ffff:7f00:1",
  "::FFFF:127.0.0.1",
  "0:0:0:0:0:ffff:7f00:1",
  "::ffff:10.0.0.1",
  "::ffff:169.254.169.254",
  "::ffff:a9fe:a9fe",
  "::ffff:192.168.1.1",
  "::ffff:0:127.0.0.1",
  "::ffff:0.0.0.0",
  "64:ff9b::127.0.0.1",
  "64:ff9b::7f00:1",
  "64:ff9b::a9fe:a9fe",
  "64:ff9b:1::1",
  "64:ff9b:1:fffe::7f00:1",
  "100::1",
  "2001::1",
  "2001:0:7f00:1::",
  "2001:2::1",
  "2001:10::1",
  "2001:20::1",
  "2001:db8::1",
  "2001:db8:ffff::1",
  "2002:7f00:1::",
  "2002:7f00:1::1",
  "2002:a00:1::",
  "2002:a9fe:a9fe::1",
  "2620:4f:8000::1",
  "3fff::1",
  "4000::1",
  "5f00::1",
  "fc00::1",
  "fd00::1",
  "fd00:ec2::254",
  "fdff::1",
  "fe80::1",
  "febf::1",
  "fec0::1",
  "feff::1",
  "ff00::1",
  "ff02::1",
  "ff0e::1",
];

const HOSTILE_NAMES = [
  "localhost",
  "LOCALHOST",
  "localhost.",
  "a.localhost",
  "localhost.localdomain",
  "ip6-localhost",
  "metadata.google.internal",
  "metadata.internal",
  "vault.internal",
  "printer.local",
  "nas.lan",
  "router.home",
  "router.home.arpa",
  "wiki.corp",
  "wiki.intranet",
  "db.private",
  "ⓛocalhost",
  "loc\u00adalhost",
];

const HOSTILE_TEXTS = [
  "",
  "example.com",
  "//example.com/a",
  "/etc/passwd",
  "file:///etc/passwd",
  "file://localhost/etc/passwd",
  "ftp://example.com/a",
  "gopher://example.com:70/_",
  "dict://example.com:11211/stat",
  "ldap://example.com",
  "javascript:alert(1)",
  "blob:https://example.com/1",
  "ws://example.com",
  "jar:https://example.com!/a",
  "http://",
  "http:///",
  "http://user@example.com/",
  "http://user:password@example.com/",
  "https://127.0.0.1@example.com/",
  "https://example.com:password@10.0.0.1/",
  "http://example.com:22/",
  "http://example.com:6379/",
  "http://example.com:8080/",
  "https://example.com:8443/",
  "http://example.com:11211/",
  "http://example.com:0/",
  "http://example.com:65536/",
  "http://exa mple.com/",
  "http://[::1",
  "http://[::1]:22/",
  "http://[fe80::1%25eth0]/",
  "http://127.0.0.1:80/",
  "https://[::ffff:127.0.0.1]:443/",
  "http://127.0.0.1\\@example.com/",
  "http://example.com\\@127.0.0.1/",
  "http:\\\\127.0.0.1\\",
  "http:127.0.0.1",
  "hTTp://0x7f.1/",
  "\thttp://127.0.0.1/",
  "http://127.0.0.1#@example.com/",
  "http://127.0.0.1?@example.com/",
  "http://two-faced.example/",
  "http://rebinding-to-v6.example/",
  "http://resolves-to-metadata.example/",
  "http://nothing.example/",
  `https://example.com/${"a".repeat(9_000)}`,
];

const HONEST = [
  "https://example.com/",
  "http://example.com/",
  "https://example.com:443/a.png",
  "http://example.com:80/a.png",
  "https://example.com:80/",
  "https://93.184.215.14/x",
  "https://1.1.1.1/",
  "https://8.8.8.8/a?b=c#d",
  "https://[2606:4700::1111]/",
  "https://[2001:4860:4860::8888]/",
  "https://xn--bcher-kva.example/ü.png",
  "https://bücher.example/",
  "https://example.com./",
  "https://EXAMPLE.com/",
  "https://a.b.c.example.com/",
  "https://172.15.0.1/",
  "https://172.32.0.1/",
  "https://11.0.0.1/",
  "https://100.63.255.255/",
  "https://100.128.0.1/",
  "https://192.167.0.1/",
  "https://198.17.255.255/",
  "https://198.20.0.1/",
  "https://223.255.255.255/",
  "https://126.255.255.255/",
  "https://128.0.0.1/",
  "https://local.example/",
  "https://internal.example/",
  "https://example.com/127.0.0.1",
  "https://example.com/?url=http://127.0.0.1/",
  "https://2600::/".replace("2600::", "[2600::]"),
];

const NAMES: Record<string, string[]> = {
  "two-faced.example": ["93.184.215.14", "127.0.0.1"],
  "rebinding-to-v6.example": ["93.184.215.14", "::1"],
  "resolves-to-metadata.example": ["169.254.169.254"],
  "nothing.example": [],
  localhost: ["127.0.0.1"],
};

const POLICY: UrlPolicy = {
  allowCidrs: [],
  // Local names are refused by name even where a resolver gives a public address.
  resolve: async (name) => NAMES[name] ?? ["93.184.215.14"],
};

const HOSTILE = [
  ...HOSTILE_IPV4.map((host) => `http://${host}/`),
  ...HOSTILE_SPELLINGS.map((host) => `http://${host}/`),
  ...HOSTILE_IPV6.map((host) => `http://[${host}]/`),
  ...HOSTILE_NAMES.map((host) => `http://${host}/`),
  ...HOSTILE_TEXTS,
];

describe("the URL guard", () => {
  it("is tried on enough hostile and honest URLs", () => {
    expect(new Set(HOSTILE).size).toBeGreaterThanOrEqual(150);
    expect(new Set(HONEST).size).toBeGreaterThanOrEqual(30);
  });

  it.each(HOSTILE)("refuses %s", async (url) => {
    expect(await checkUrl(url, POLICY)).toMatchObject({ ok: false });
  });

  it.each(HONEST)("allows %s", async (url) => {
    expect(await checkUrl(url, POLICY)).toMatchObject({ ok: true });
  });

  it("is not got around by webhooks: what their text tells is refused when they are given, the rest where they are called", () => {
    const named = HOSTILE.filter((url) => /\/\/(two-faced|rebinding|resolves|nothing)/.test(url));
    expect(HOSTILE.filter((url) => webhookUrlFault(url, []) === null)).toEqual(named);
    expect(HONEST.filter((url) => webhookUrlFault(url, []) !== null)).toEqual([]);
  });

  it("opens private ranges only as the operator lists them, there on any port", async () => {
    const policy = { allowCidrs: ["127.0.0.0/8", "fd00::/8"], resolve: POLICY.resolve ?? (async () => []) };
    expect(await checkUrl("http://127.0.0.1:9000/a", policy)).toMatchObject({ ok: true });
    expect(await checkUrl("http://localhost:9000/a", policy)).toMatchObject({ ok: true, address: "127.0.0.1" });
    expect(await checkUrl("http://[fd00::5]:81/", policy)).toMatchObject({ ok: true });
    expect(await checkUrl("http://[::ffff:127.0.0.1]/", policy)).toMatchObject({ ok: true });
    expect(await checkUrl("http://10.0.0.1/", policy)).toMatchObject({ ok: false });
    expect(await checkUrl("http://two-faced.example:9000/", policy)).toMatchObject({ ok: false });
  });
});

describe("a guarded download", () => {
  let server: Server;
  let base: string;
  let folder: ReturnType<typeof temporaryFolder>;
  const seen: string[] = [];
  beforeAll(async () => {
    server = createServer((request, response) => {
      seen.push(`${request.headers.host} ${request.headers.authorization ?? "-"}`);
      const path = request.url ?? "";
      const hops = /^\/hop\/(\d+)/.exec(path)?.[1];
      if (hops !== undefined) {
        const to = hops === "0" ? "/file" : `/hop/${Number(hops) - 1}`;
        response.writeHead(302, { location: to }).end();
      } else if (path === "/to-metadata") response.writeHead(302, { location: "http://169.254.169.254/" }).end();
      else if (path === "/to-file") response.writeHead(302, { location: "file:///etc/passwd" }).end();
      else if (path === "/bomb")
        response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(Buffer.alloc(20_000_000)));
      else if (path === "/gzip") response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync("honest"));
      else if (path === "/endless") {
        const timer = setInterval(() => response.write(Buffer.alloc(65_536)), 1);
        response.on("close", () => clearInterval(timer));
      } else if (path === "/drip") {
        const timer = setInterval(() => response.write("x"), 50);
        response.on("close", () => clearInterval(timer));
      } else if (path === "/cut") {
        response.writeHead(200, { "content-length": 100 });
        response.write("half");
        setTimeout(() => response.destroy(), 20);
      } else if (path === "/file") response.writeHead(200, { "content-type": "text/plain" }).end("content");
      else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    base = `:${typeof address === "object" && address !== null ? address.port : 0}`;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(() => {
    folder = temporaryFolder();
    seen.length = 0;
  });
  afterEach(() => folder.remove());

  const policy: UrlPolicy = { allowCidrs: ["127.0.0.1/32"], resolve: async () => ["127.0.0.1"] };
  const fetchFile = async (path: string, bounds: DownloadBounds = { bytesMax: 1_000_000, timeoutMs: 2_000 }) => {
    const file = join(folder.path, "file");
    const download = await downloadGuarded(
      `http://pinned.example${base}${path}`,
      file,
      policy,
      new AbortController().signal,
      bounds,
    );
    return { download, content: existsSync(file) ? readFileSync(file, "utf8") : null };
  };

  it("connects to the checked address and keeps the host's name", async () => {
    const { download, content } = await fetchFile("/file");
    expect(download).toMatchObject({ kind: "done", size_bytes: 7 });
    expect(content).toBe("content");
    expect(seen).toEqual([`pinned.example${base} -`]);
  });

  it("resolves once: a name that changes its mind is reached where it was checked", async () => {
    let lookups = 0;
    const rebinding = {
      allowCidrs: ["127.0.0.1/32"],
      resolve: async () => (++lookups === 1 ? ["127.0.0.1"] : ["169.254.169.254"]),
    };
    const path = join(folder.path, "file");
    const download = await downloadGuarded(
      `http://rebinding.example${base}/file`,
      path,
      rebinding,
      new AbortController().signal,
    );
    expect(download.kind).toBe("done");
    expect(lookups).toBe(1);
  });

  it("follows three redirects and no more", async () => {
    expect((await fetchFile("/hop/2")).content).toBe("content");
    expect((await fetchFile("/hop/3")).download).toMatchObject({ kind: "failed" });
  });

  it.each(["/to-metadata", "/to-file"])("checks each redirect anew: %s", async (path) => {
    expect((await fetchFile(path)).download.kind).toBe("failed");
  });

  it("understands hosts that compress although they were asked not to", async () => {
    expect((await fetchFile("/gzip")).content).toBe("honest");
  });

  it.each([
    ["/bomb", "larger"],
    ["/endless", "larger"],
    ["/drip", "did not arrive"],
    ["/cut", "broke off"],
    ["/missing", "404"],
  ])("bounds size and time, and leaves no file: %s", async (path, reason) => {
    const { download, content } = await fetchFile(path);
    expect(download).toMatchObject({ kind: "failed", reason: expect.stringContaining(reason) });
    expect(content).toBeNull();
  });
});
