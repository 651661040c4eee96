/** The registry as its clients use it, for tests: tokens, blobs and manifests in the repository of a model. */
import { createHash } from "node:crypto";
import { expect } from "vitest";
import { aModel, type Person } from "./catalog.ts";
import { call } from "./edge.ts";

export const OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json";
export const OCI_INDEX = "application/vnd.oci.image.index.v1+json";

/** The repository (owner/name) of a new private model. */
export async function newRepository(by: Person): Promise<string> {
  return (await aModel(by)).slice("/v1/models/".length);
}

export function basic(token: string): Record<string, string> {
  return { authorization: `Basic ${Buffer.from(`anybody:${token}`).toString("base64")}` };
}

interface Ticket {
  token: string;
  access: { type: string; name: string; actions: string[] }[];
}

/** What an API token is exchanged for, and what it grants. */
export async function ticket(token: string, ...scopes: string[]): Promise<Ticket> {
  const query = new URLSearchParams([["service", "x"], ...scopes.map((scope) => ["scope", scope] as [string, string])]);
  const answer = await call("GET", `/v2/token?${query}`, { headers: basic(token) });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  const { token: jwt } = await answer.json<{ token: string }>();
  const { access } = JSON.parse(Buffer.from(jwt.split(".")[1] ?? "", "base64url").toString());
  return { token: jwt, access };
}

interface Options {
  as?: Person;
  /** further scopes of its token */
  scopes?: string[];
  bytes?: Uint8Array | ReadableStream<Uint8Array>;
  headers?: Record<string, string>;
}

export async function errorOf(answer: Response): Promise<[status: number, code: string, message: string]> {
  const { errors } = await answer.json<{ errors: { code: string; message: string }[] }>();
  expect(errors).toHaveLength(1);
  return [answer.status, errors[0]?.code ?? "", errors[0]?.message ?? ""];
}

export async function refused(answer: Promise<Response>): Promise<[status: number, code: string]> {
  const [status, code] = await errorOf(await answer);
  return [status, code];
}

export const digestOf = (bytes: Uint8Array, algorithm = "sha256"): string =>
  `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;

let seed = 1;
/** Bytes that nothing else here has. */
export function someBytes(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  seed += 1;
  const words = new Uint32Array(bytes.buffer, 0, size >> 2);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 2_654_435_761 + seed);
  if (words.length === 0) bytes.fill(seed);
  return bytes;
}

export const contentOf = (bytes: Uint8Array) => ({ sha256: digestOf(bytes), size: bytes.length });

export interface Manifest {
  bytes: Uint8Array;
  digest: string;
}

export function manifestOf(value: unknown): Manifest {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  return { bytes, digest: digestOf(bytes) };
}

export const descriptor = (digest: string, mediaType = "application/octet-stream") => ({ mediaType, digest, size: 1 });

/** A person's client, at home in one repository (owner/name). */
export class RegistryClient {
  readonly #person: Person;
  readonly #home: string;

  constructor(person: Person, home: string) {
    this.#person = person;
    this.#home = home;
  }

  /** A request as a client makes it that has got a token for it. */
  async oci(method: string, repository: string, path: string, options: Options = {}): Promise<Response> {
    const { as = this.#person, scopes = [], bytes, headers = {} } = options;
    const { token } = await ticket(as.token, `repository:${repository}:pull,push,delete`, ...scopes);
    return call(method, path.startsWith("/") ? path : `/v2/${repository}/${path}`, {
      token,
      headers,
      ...(bytes === undefined ? {} : { bytes }),
    });
  }

  async push(bytes: Uint8Array, repository = this.#home, options: Options = {}): Promise<string> {
    const digest = digestOf(bytes);
    const answer = await this.oci("POST", repository, `blobs/uploads/?digest=${digest}`, { ...options, bytes });
    if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
    return digest;
  }

  /** Begins an upload. Answers its place. */
  async begin(repository = this.#home): Promise<string> {
    const answer = await this.oci("POST", repository, "blobs/uploads/");
    expect(answer.status).toBe(202);
    return answer.headers.get("location") ?? "";
  }

  /** Digest and size of what is read, which says as much as the bytes and is compared in no time. */
  async pulled(digest: string, repository = this.#home): Promise<{ sha256: string; size: number }> {
    const answer = await this.oci("GET", repository, `blobs/${digest}`);
    if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
    return contentOf(new Uint8Array(await answer.arrayBuffer()));
  }

  /** The manifest of an image whose blobs were pushed. */
  async anImage(change: Record<string, unknown> = {}, repository = this.#home): Promise<Manifest> {
    const config = await this.push(someBytes(100), repository);
    const layer = await this.push(someBytes(1_000), repository);
    return manifestOf({
      schemaVersion: 2,
      mediaType: OCI_IMAGE,
      config: descriptor(config),
      layers: [descriptor(layer)],
      ...change,
    });
  }

  put(manifest: Manifest, reference: string, repository = this.#home, type = OCI_IMAGE): Promise<Response> {
    return this.oci("PUT", repository, `manifests/${reference}`, {
      bytes: manifest.bytes,
      headers: { "content-type": type },
    });
  }
}
