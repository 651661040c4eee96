import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { userUrlFault } from "../schema/public-url.ts";
import { HONEST_URLS, HOSTILE_URLS, NAMES } from "../schema/testing/hostile-urls.ts";
import { type DownloadBounds, downloadGuarded } from "./guarded-download.ts";
import { temporaryFolder } from "./testing/harness.ts";
import { checkUrl, type UrlPolicy } from "./url-guard.ts";

const POLICY: UrlPolicy = {
  allowCidrs: [],
  // Local names are refused by name even where a resolver gives a public address.
  resolve: async (name) => NAMES[name] ?? ["93.184.215.14"],
};

describe("the URL guard", () => {
  it("is tried on enough hostile and honest URLs", () => {
    expect(new Set(HOSTILE_URLS).size).toBeGreaterThanOrEqual(150);
    expect(new Set(HONEST_URLS).size).toBeGreaterThanOrEqual(30);
  });

  it.each(HOSTILE_URLS)("refuses %s", async (url) => {
    expect(await checkUrl(url, POLICY)).toMatchObject({ ok: false });
  });

  it.each(HONEST_URLS)("allows %s", async (url) => {
    expect(await checkUrl(url, POLICY)).toMatchObject({ ok: true });
  });

  it("is not got around by webhooks: what their text tells is refused when they are given, the rest where they are called", () => {
    const named = HOSTILE_URLS.filter((url) => /\/\/(two-faced|rebinding|resolves|nothing)/.test(url));
    expect(HOSTILE_URLS.filter((url) => userUrlFault(url, []) === null)).toEqual(named);
    expect(HONEST_URLS.filter((url) => userUrlFault(url, []) !== null)).toEqual([]);
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
