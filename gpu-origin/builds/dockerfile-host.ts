/**
 * What a build needs of its host to reach package indexes: proxies as BuildKit's own arguments, indexes and certificate authorities as secrets. None of it
 * becomes part of an image, of its history or of a cache key.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { SECRET_BYTES_MAX } from "./buildkit-session.ts";
import { CA_SECRET, HOST_SECRET, SECRETS_FOLDER } from "./dockerfile.ts";

const PROXIES = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
const INDEXES = [
  "PIP_INDEX_URL",
  "PIP_EXTRA_INDEX_URL",
  "UV_DEFAULT_INDEX",
  "UV_INDEX_URL",
  "UV_INDEX",
  "UV_EXTRA_INDEX_URL",
  "UV_PYTHON_INSTALL_MIRROR",
];
/** The first that is set names the file. */
const CA_FILES = ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"];
/** Programs that do not look at the system's own store. */
const CA_VARIABLES = ["PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

export interface HostSettings {
  buildArgs: Record<string, string>;
  secrets: Map<string, Buffer>;
}

/**
 * Reads `env`. Code of others is given no address that has a password in it: what is installed runs in the same step and could read it. Throws one line
 * where the file of authorities cannot be used.
 */
export function hostSettings(env: Record<string, string | undefined>, isTrusted: boolean): HostSettings {
  const given = (names: string[]): [string, string][] =>
    names.flatMap((name) => {
      const value = env[name] ?? "";
      return value === "" || (!isTrusted && hasPassword(value)) ? [] : [[name, value]];
    });
  const indexes = Object.fromEntries(given(INDEXES));
  const { PIP_INDEX_URL, UV_DEFAULT_INDEX = env["UV_INDEX_URL"] ?? PIP_INDEX_URL } = indexes;
  const variables: Record<string, string> = {
    ...indexes,
    // uv does not read pip's settings.
    ...(UV_DEFAULT_INDEX === undefined || (!isTrusted && hasPassword(UV_DEFAULT_INDEX)) ? {} : { UV_DEFAULT_INDEX }),
  };
  const secrets = new Map<string, Buffer>();
  const caFile = CA_FILES.map((name) => env[name]).find((path) => path !== undefined && path !== "");
  if (caFile !== undefined) {
    const bundle = readBundle(caFile);
    secrets.set(CA_SECRET, bundle);
    for (const name of CA_VARIABLES) variables[name] = `${SECRETS_FOLDER}/${CA_SECRET}`;
  }
  if (Object.keys(variables).length > 0) secrets.set(HOST_SECRET, Buffer.from(exportLines(variables)));
  return { buildArgs: Object.fromEntries(given(PROXIES)), secrets };
}

/**
 * COGWAY_BASE_IMAGE: one image for all, or a JSON object from resolved images to others, for hosts that reach no registry of images. Null where it is
 * neither.
 */
export function baseImages(setting: string): ((resolved: string) => string) | null {
  const text = setting.trim();
  if (text === "") return (resolved) => resolved;
  if (!text.startsWith("{")) return () => text;
  try {
    const images = z.record(z.string(), z.string()).parse(JSON.parse(text));
    return (resolved) => images[resolved] ?? resolved;
  } catch {
    return null;
  }
}

function readBundle(path: string): Buffer {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch {
    throw new Error(`${path}, which PIP_CERT or SSL_CERT_FILE names, cannot be read.`);
  }
  if (bytes.length > SECRET_BYTES_MAX) {
    throw new Error(`${path} has more than ${SECRET_BYTES_MAX} bytes; let PIP_CERT name a file of fewer authorities.`);
  }
  return bytes;
}

function hasPassword(value: string): boolean {
  return value.split(/\s+/).some((part) => /^[a-z][a-z0-9+.-]*:\/\/[^/]*@/i.test(part));
}

function exportLines(variables: Record<string, string>): string {
  return Object.entries(variables)
    .map(([name, value]) => `export ${name}='${value.replaceAll("'", `'\\''`)}'\n`)
    .join("");
}
