import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { isTokenWellFormed, newToken } from "../../schema/tokens.ts";
import { exampleNames } from "./paths.ts";
import { originCount, readSettings } from "./settings.ts";

let folder: string;
let env: Record<string, string>;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "cogway-settings-"));
  env = { COGWAY_DATA: join(folder, "data") };
});
afterEach(() => rmSync(folder, { recursive: true }));

function model(name: string, yaml = 'build: { python_version: "3.11" }\nrun: "predict.py:Runner"\n'): string {
  const path = join(folder, name);
  mkdirSync(path);
  writeFileSync(join(path, "predict.py"), "class Runner: ...\n");
  writeFileSync(join(path, "cog.yaml"), yaml);
  return path;
}

describe("settings", () => {
  it("have the defaults of the README", () => {
    expect(readSettings(env)).toMatchObject({
      port: 8787,
      publicUrl: "http://127.0.0.1:8787",
      localUrl: "http://127.0.0.1:8787",
      retention: "1h",
      canaryInterval: "1d",
      uploadRelayUrl: "",
      allowPrivateUrls: "",
      modelsAreExplicit: false,
    });
    expect(readSettings(env).modelDirs.map((path) => path.split("/").at(-1))).toEqual(exampleNames());
  });

  it("keep a token and secrets, made once, for the owner's eyes only", () => {
    const first = readSettings(env);
    const again = readSettings(env);
    expect(isTokenWellFormed(first.token)).toBe(true);
    expect(Buffer.from(first.signingSecret, "base64")).toHaveLength(32);
    expect([again.token, again.signingSecret, again.origins]).toEqual([
      first.token,
      first.signingSecret,
      first.origins,
    ]);
    for (const name of ["token", "secrets.json"]) expect(statSync(join(first.dataDir, name)).mode & 0o777).toBe(0o600);
  });

  it("give each of several origins a port, a folder and a join token of its own, and the first what a single one has", () => {
    const { dataDir, origins } = readSettings(env, 3);
    expect(origins.map(({ port }) => port)).toEqual([8788, 8789, 8790]);
    expect(origins.map((origin) => origin.dataDir)).toEqual([
      dataDir,
      join(dataDir, "origin-1"),
      join(dataDir, "origin-2"),
    ]);
    expect(new Set(origins.map(({ joinToken }) => joinToken)).size).toBe(3);
    expect(readSettings(env).origins).toEqual(origins.slice(0, 1));
    expect(readSettings(env, 3).origins).toEqual(origins);
  });

  it.each(["0", "9", "two", "1.5", ""])("--origins %s is refused in one line", (text) => {
    expect(() => originCount(text)).toThrow(/^--origins: [^\n]* 1 to 8\.$/);
  });

  it("refuse ports of origins that do not exist, or that the edge has", () => {
    expect(() => readSettings({ ...env, COGWAY_PORT: "8790" }, 3)).toThrow("ports 8788 to 8790");
    expect(() => readSettings({ ...env, COGWAY_ORIGIN_PORT: "65535" }, 2)).toThrow("ports 65535 to 65536");
  });

  it("take a token that is given, and write none", () => {
    const token = newToken();
    expect(readSettings({ ...env, COGWAY_TOKEN: token }).token).toBe(token);
    expect(statSync(join(folder, "data", "token"), { throwIfNoEntry: false })).toBeUndefined();
  });

  it("send uploads through the local origin where that is wanted", () => {
    const wanted = { ...env, COGWAY_UPLOAD_RELAY: "1", COGWAY_ORIGIN_PORT: "9001" };
    expect(readSettings(wanted).uploadRelayUrl).toBe("http://127.0.0.1:9001");
  });

  it("with TLS have https addresses; a public URL loses its last slash", () => {
    expect(readSettings({ ...env, COGWAY_TLS: "1", COGWAY_PORT: "9000" }).publicUrl).toBe("https://127.0.0.1:9000");
    expect(readSettings({ ...env, COGWAY_PUBLIC_URL: "https://cogway.example/" })).toMatchObject({
      publicUrl: "https://cogway.example",
      localUrl: "http://127.0.0.1:8787",
    });
  });

  it("take models by an example's name and by a folder", () => {
    const folders = readSettings({ ...env, COGWAY_MODELS: `minilm-embeddings, ${model("mine")}` });
    expect(folders.modelsAreExplicit).toBe(true);
    expect(folders.modelDirs).toEqual([
      expect.stringMatching(/examples\/models\/minilm-embeddings$/),
      join(folder, "mine"),
    ]);
  });

  it.each([
    [{ COGWAY_PORT: "x" }, "COGWAY_PORT must be a port number"],
    [{ COGWAY_PORT: "8788" }, "must differ"],
    [{ COGWAY_TOKEN: "cw_0" }, "COGWAY_TOKEN is no well-formed token"],
    [{ COGWAY_PUBLIC_URL: "ftp://host" }, "COGWAY_PUBLIC_URL must be an http or https URL"],
    [{ COGWAY_RETENTION: "soon" }, "COGWAY_RETENTION must be a duration"],
    [{ COGWAY_ALLOW_PRIVATE_URLS: "10.0.0.0" }, "COGWAY_ALLOW_PRIVATE_URLS must be a comma list of CIDR ranges"],
    [{ COGWAY_TLS: "yes" }, "COGWAY_TLS must be 1 or 0"],
    [{ COGWAY_MODELS: "no-such-model" }, '"no-such-model" is no folder, and no example'],
  ])("%o is refused in one line", (given, words) => {
    expect(() => readSettings({ ...env, ...given })).toThrow(words);
    expect(() => readSettings({ ...env, ...given })).toThrow(/^[^\n]*$/);
  });

  it("a folder whose cog.yaml cannot be read is refused by file and line, and two of one name are", () => {
    const broken = model("broken", 'predict: "predict.py:Runner\n');
    expect(() => readSettings({ ...env, COGWAY_MODELS: broken })).toThrow(/broken\/cog\.yaml:2:1 is not YAML/);
    mkdirSync(join(folder, "empty"));
    expect(() => readSettings({ ...env, COGWAY_MODELS: join(folder, "empty") })).toThrow("cog.yaml");
    mkdirSync(join(folder, "other"));
    const same = [model("same"), join(folder, "other", "same")];
    mkdirSync(same[1] ?? "");
    expect(() => readSettings({ ...env, COGWAY_MODELS: same.join(",") })).toThrow('named "same"');
  });
});
