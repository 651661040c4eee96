/** The calls of the OCI distribution API that a push makes, with a token of `/v2/token` that is renewed before it ends. Bodies stream from disk. */
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import type { Descriptor } from "../../../schema/packages.ts";
import type { Connection } from "./connection.ts";
import type { ModelName } from "./context.ts";
import { type Failure, retryAfterMs } from "./retry.ts";

/** A token is renewed this long before its end: a blob's upload begins with one that lasts. */
const TOKEN_SPARE_MS = 30_000;
/** What the distribution project's clients take where a token says nothing. */
const TOKEN_TTL_S = 60;
/** A token younger than this has not ended early. */
const TOKEN_NEW_MS = 5_000;
/** With no byte moved for so long a connection is dead. */
const SILENCE_MS_MAX = 120_000;
const ANSWER_BYTES_MAX = 1_048_576;

const TokenSchema = z.object({ token: z.string(), expires_in: z.number().positive().default(TOKEN_TTL_S) });
const ErrorsSchema = z.object({ errors: z.array(z.object({ code: z.string(), message: z.string() })).min(1) });

/** A refusal of the registry, or the end of a connection (`status` null). */
export class RegistryFault extends Error {
  readonly failure: Failure;
  readonly status: number | null;

  constructor(message: string, failure: Failure, cause?: unknown) {
    super(message, { cause });
    this.failure = failure;
    this.status = failure.status;
  }
}

interface Answer {
  status: number;
  headers: IncomingMessage["headers"];
  text: string;
}

interface Body {
  stream: Readable;
  size: number;
  onBytes: (count: number) => void;
}

interface Token {
  value: string;
  made_at: number;
  renew_at: number;
}

export class RegistryClient {
  readonly #connection: Connection;
  readonly #repository: string;
  readonly #signal: AbortSignal;
  #token: Token | null = null;
  #renewing: Promise<Token> | null = null;

  constructor(connection: Connection, { owner, name }: ModelName, signal: AbortSignal) {
    this.#connection = connection;
    this.#repository = `${owner}/${name}`;
    this.#signal = signal;
  }

  async hasBlob(digest: string): Promise<boolean> {
    const answer = await this.#call("HEAD", this.#path(`blobs/${digest}`));
    if (answer.status === 404) return false;
    return expected(answer, 200) !== null;
  }

  /** One POST for the place, one PUT with the bytes. `open` gives them anew at each call; `onBytes` counts those that were sent. */
  async putBlob(descriptor: Descriptor, open: () => Readable, onBytes: (count: number) => void): Promise<void> {
    const begun = expected(await this.#call("POST", this.#path("blobs/uploads/")), 202);
    const location = begun.headers.location;
    if (location === undefined) throw unexpected(begun, "named no place for the upload");
    const place = new URL(location, this.#connection.url);
    place.searchParams.set("digest", descriptor.digest);
    const body = { stream: open(), size: descriptor.size, onBytes };
    expected(await this.#call("PUT", place.href, { "content-type": "application/octet-stream" }, body), 201);
  }

  async putManifest(digest: string, mediaType: string, bytes: Buffer): Promise<void> {
    const body = { stream: Readable.from([bytes]), size: bytes.length, onBytes: () => undefined };
    expected(await this.#call("PUT", this.#path(`manifests/${digest}`), { "content-type": mediaType }, body), 201);
  }

  #path(rest: string): string {
    return `${this.#connection.url}/v2/${this.#repository}/${rest}`;
  }

  async #call(method: string, url: string, headers: Record<string, string> = {}, body?: Body): Promise<Answer> {
    const token = await this.#freshToken();
    // An upload may go on elsewhere, at an address that needs no token and should see none.
    const isElsewhere = new URL(url).origin !== new URL(this.#connection.url).origin;
    const authorization = isElsewhere ? {} : { authorization: `Bearer ${token.value}` };
    const answer = await send(method, url, { ...headers, ...authorization }, this.#signal, body);
    if (answer.status !== 401) return answer;
    this.#token = null;
    // One that was just made is refused for what it may do; an older one may have ended early, so another try can help.
    const wasNew = performance.now() - token.made_at < TOKEN_NEW_MS;
    throw new RegistryFault(messageOf(answer), { status: wasNew ? 401 : null, retryAfterMs: null });
  }

  /** Calls that need one at the same time share it. */
  async #freshToken(): Promise<Token> {
    if (this.#token !== null && this.#token.renew_at > performance.now()) return this.#token;
    this.#renewing ??= this.#newToken().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  async #newToken(): Promise<Token> {
    const { url, token } = this.#connection;
    const query = new URLSearchParams({
      service: new URL(url).host,
      scope: `repository:${this.#repository}:pull,push`,
    });
    const authorization = `Basic ${Buffer.from(`cogway:${token}`).toString("base64")}`;
    const answer = expected(await send("GET", `${url}/v2/token?${query}`, { authorization }, this.#signal), 200);
    const parsed = TokenSchema.safeParse(parseJson(answer.text));
    if (!parsed.success) throw unexpected(answer, `${url}/v2/token gave no token`);
    const made_at = performance.now();
    const renew_at = made_at + parsed.data.expires_in * 1_000 - TOKEN_SPARE_MS;
    this.#token = { value: parsed.data.token, made_at, renew_at };
    return this.#token;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function expected(answer: Answer, status: number): Answer {
  if (answer.status === status) return answer;
  throw unexpected(answer, messageOf(answer));
}

function unexpected({ status, headers }: Answer, message: string): RegistryFault {
  const retryAfter = retryAfterMs(headers["retry-after"] ?? null, Date.now());
  return new RegistryFault(message, { status, retryAfterMs: retryAfter });
}

function messageOf({ status, text }: Answer): string {
  const [first] = ErrorsSchema.safeParse(parseJson(text)).data?.errors ?? [];
  return first === undefined ? `the registry answered ${status}` : `${first.message} (${status} ${first.code})`;
}

/** One request whose body streams. An answer may come before the whole body was sent: a refusal of it. */
async function send(
  method: string,
  url: string,
  headers: Record<string, string>,
  signal: AbortSignal,
  body?: Body,
): Promise<Answer> {
  const make = url.startsWith("https:") ? httpsRequest : httpRequest;
  const request = make(url, {
    method,
    signal,
    timeout: SILENCE_MS_MAX,
    headers: { ...headers, "content-length": body?.size ?? 0 },
  });
  request.once("timeout", () => request.destroy(new Error(`nothing moved for ${SILENCE_MS_MAX / 1_000} s`)));
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    request.once("response", resolve);
    request.once("error", reject);
  });
  // What reads a file may fail by itself: that is no fault of the connection, so it goes to the caller as it is.
  let readFault: unknown = null;
  body?.stream.once("error", (error) => {
    readFault = error;
  });
  try {
    if (body === undefined) request.end();
    else void pipeline(body.stream, counted(body.onBytes), request).catch(() => undefined);
    const response = await answered;
    const text = await readText(response);
    return { status: response.statusCode ?? 0, headers: response.headers, text };
  } catch (error) {
    signal.throwIfAborted();
    if (readFault !== null) throw readFault;
    const reason = error instanceof Error ? error.message : String(error);
    throw new RegistryFault(`the connection broke: ${reason}`, { status: null, retryAfterMs: null }, error);
  }
}

async function readText(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) {
    text = (text + String(chunk)).slice(0, ANSWER_BYTES_MAX);
  }
  return text;
}

function counted(onBytes: (count: number) => void) {
  return async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      yield chunk;
      onBytes(chunk.length);
    }
  };
}
