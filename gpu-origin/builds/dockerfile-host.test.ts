import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { SECRET_BYTES_MAX } from "./buildkit-session.ts";
import { baseImages, hostSettings } from "./dockerfile-host.ts";

const folder = mkdtempSync(join(tmpdir(), "cogway-host-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function exported(env: Record<string, string>, isTrusted = true): string {
  return hostSettings(env, isTrusted).secrets.get("cogway_host")?.toString("utf8") ?? "";
}

describe("what a build needs of its host", () => {
  it("has indexes and authorities as secrets, and proxies as BuildKit's own arguments", () => {
    const ca = join(folder, "ca.pem");
    writeFileSync(ca, "authorities");
    const settings = hostSettings(
      { PIP_CERT: ca, PIP_INDEX_URL: "https://pypi.example/simple", HTTPS_PROXY: "http://proxy:3128", TERM: "x" },
      true,
    );
    expect(settings.buildArgs).toEqual({ HTTPS_PROXY: "http://proxy:3128" });
    expect(settings.secrets.get("cogway_ca")?.toString()).toBe("authorities");
    const lines = settings.secrets.get("cogway_host")?.toString("utf8").trim().split("\n");
    expect(lines).toContain("export PIP_INDEX_URL='https://pypi.example/simple'");
    expect(lines).toContain("export UV_DEFAULT_INDEX='https://pypi.example/simple'");
    expect(lines).toContain("export SSL_CERT_FILE='/run/secrets/cogway_ca'");
  });

  it("says nothing where the host says nothing", () => {
    expect(hostSettings({}, true)).toEqual({ buildArgs: {}, secrets: new Map() });
  });

  it("keeps passwords from code of others", () => {
    const env = {
      PIP_INDEX_URL: "https://me:secret@pypi.example/simple",
      HTTP_PROXY: "http://me:secret@proxy",
      UV_INDEX_URL: "https://token@x/",
    };
    expect(exported(env, true)).toContain("me:secret");
    expect(hostSettings(env, false)).toEqual({ buildArgs: {}, secrets: new Map() });
  });

  it("quotes for the shell", () => {
    expect(exported({ PIP_INDEX_URL: "https://x/'; touch /x; '" })).toContain(
      `export PIP_INDEX_URL='https://x/'\\''; touch /x; '\\'''`,
    );
  });

  it("says which file of authorities cannot be used", () => {
    expect(() => hostSettings({ SSL_CERT_FILE: join(folder, "none") }, true)).toThrow(
      /none, which PIP_CERT or SSL_CERT_FILE names/,
    );
    const large = join(folder, "large.pem");
    writeFileSync(large, Buffer.alloc(SECRET_BYTES_MAX + 1));
    expect(() => hostSettings({ SSL_CERT_FILE: large }, true)).toThrow(/fewer authorities/);
  });
});

describe("COGWAY_BASE_IMAGE", () => {
  it("is one image, a list of images, or nothing", () => {
    expect(baseImages("")?.("python:3.11-slim")).toBe("python:3.11-slim");
    expect(baseImages("local/base:bookworm")?.("python:3.11-slim")).toBe("local/base:bookworm");
    const mapped = baseImages('{"python:3.11-slim": "mirror/python:3.11"}');
    expect(mapped?.("python:3.11-slim")).toBe("mirror/python:3.11");
    expect(mapped?.("python:3.12-slim")).toBe("python:3.12-slim");
    expect(baseImages("{nonsense")).toBeNull();
  });
});
