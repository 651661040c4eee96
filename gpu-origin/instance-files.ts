/**
 * The file server of one instance, through which its coglet gets and gives files: input files of its running predictions by GET, output files by PUT.
 * Port and secret path belong to this instance alone; the header `x-prediction-id` names the attempt, and only one that runs here is served.
 */
import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type OutputBudget, OutputRefused, type OutputSpool, type SpooledFile, safeFileName } from "./output-spool.ts";
import { MODEL_EXPORT_BYTES_MAX, type Telemetry } from "./telemetry.ts";

/** coglet uses a few at a time; a model that opens more must not take the origin's descriptors. */
const CONNECTIONS_MAX = 256;
/** Exports of spans that are read at a time; a model's exporter sends one after another. Each may take MODEL_EXPORT_BYTES_MAX of memory. */
export const MODEL_EXPORTS_READ_MAX = 4;

/** A file that a prediction reads. */
export interface ServedInput {
  path: string;
  name: string;
  content_type: string;
  size_bytes: number;
}

type Traces = Pick<Telemetry, "relay">;

/** Files of one running attempt. */
interface Scope {
  inputs: Map<string, ServedInput>;
  outputs: Map<string, SpooledFile>;
  budget: OutputBudget;
  /** the first upload that was not taken: coglet tells only its status */
  refusal: OutputRefused | null;
}

export class InstanceFiles {
  readonly #secret: string;
  readonly #spool: OutputSpool;
  readonly #server: Server;
  readonly #scopes = new Map<string, Scope>();
  #base = "";
  #exportsRead = 0;
  /** takes what the model's own exporter sends; null where no spans are wanted */
  readonly #traces: Traces | null;

  /** `secret` is given where an earlier process made it: coglet keeps the URL that it was started with. */
  constructor(
    spool: OutputSpool,
    { secret = newSecret(), traces = null }: { secret?: string; traces?: Traces | null } = {},
  ) {
    this.#spool = spool;
    this.#traces = traces;
    this.#secret = secret;
    this.#server = createServer((request, response) => {
      void this.#handle(request, response).catch(() => {
        if (!response.headersSent) response.writeHead(500);
        response.end();
      });
    });
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /** Why an upload of this attempt was not taken, if one was. */
  refusalOf(cogId: string): OutputRefused | null {
    return this.#scopes.get(cogId)?.refusal ?? null;
  }

  /** On an address that this instance alone reaches; port 0 is any. Answers what another process needs to listen there again. */
  async listen(host: string, port: number): Promise<{ host: string; port: number; secret: string }> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(port, host, resolve);
    });
    const address = this.#server.address();
    const taken = typeof address === "object" && address !== null ? address.port : port;
    this.#base = `http://${host}:${taken}/${this.#secret}`;
    return { host, port: taken, secret: this.#secret };
  }

  /** For coglet's --upload-url. */
  get uploadUrl(): string {
    return `${this.#base}/outputs`;
  }

  /** For OTEL_EXPORTER_OTLP_TRACES_ENDPOINT; null where no spans are wanted. */
  get tracesUrl(): string | null {
    return this.#traces === null ? null : `${this.#base}/v1/traces`;
  }

  /** Opens the scope of an attempt, named by coglet's id of the prediction. */
  open(cogId: string): void {
    if (this.#scopes.has(cogId)) return;
    const budget = this.#spool.newBudget();
    this.#scopes.set(cogId, { inputs: new Map(), outputs: new Map(), budget, refusal: null });
  }

  /** Closes it and returns the files that nobody took. Uploads that are on their way are refused. */
  close(cogId: string): SpooledFile[] {
    const scope = this.#scopes.get(cogId);
    this.#scopes.delete(cogId);
    return scope === undefined ? [] : [...scope.outputs.values()];
  }

  /** The URL of an input file; the name keeps its extension, from which models tell the format. */
  serveInput(cogId: string, input: ServedInput): string {
    const path = `/inputs/${cogId}/${randomBytes(12).toString("base64url")}/${encodeURIComponent(input.name)}`;
    this.#scopes.get(cogId)?.inputs.set(path, input);
    return this.#base + path;
  }

  /** The file that was uploaded under this URL, if it is one of ours; it then belongs to the caller. */
  takeOutput(cogId: string, url: string): SpooledFile | null {
    if (!url.startsWith(this.#base)) return null;
    const scope = this.#scopes.get(cogId);
    const file = scope?.outputs.get(url.slice(this.#base.length));
    if (file !== undefined) scope?.outputs.delete(url.slice(this.#base.length));
    return file ?? null;
  }

  /** Whether `text` could be a URL of an uploaded file, so that plain texts cost nothing. */
  isOwnUrl(text: string): boolean {
    return text.startsWith(this.#base);
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? "";
    if (!path.startsWith(`/${this.#secret}/`)) return refuse(response, 404);
    const rest = path.slice(this.#secret.length + 1);
    if (request.method === "PUT" && rest.startsWith("/outputs/")) return this.#receive(request, response, rest);
    if ((request.method === "GET" || request.method === "HEAD") && rest.startsWith("/inputs/")) {
      return this.#serve(request, response, rest);
    }
    if (request.method === "POST" && rest === "/v1/traces" && this.#traces !== null) {
      return this.#relayTraces(this.#traces, request, response);
    }
    refuse(response, 404);
  }

  /** Spans of the model, passed on as they are. Answered once they are taken, or at once where they are not wanted: the exporter then drops them. */
  async #relayTraces(traces: Traces, request: IncomingMessage, response: ServerResponse): Promise<void> {
    // 400 is final to an exporter: 503 would have it keep and repeat what nobody takes.
    if (this.#exportsRead >= MODEL_EXPORTS_READ_MAX) return refuse(response, 400);
    this.#exportsRead += 1;
    try {
      const body = await readExport(request);
      if (body === null) return refuse(response, 413);
      const { "content-type": type = "application/x-protobuf", "content-encoding": encoding } = request.headers;
      response.writeHead((await traces.relay(body, type, encoding)) ? 200 : 400);
      response.end();
    } finally {
      this.#exportsRead -= 1;
    }
  }

  async #receive(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    const cogId = request.headers["x-prediction-id"];
    const scope = typeof cogId === "string" ? this.#scopes.get(cogId) : undefined;
    if (scope === undefined || typeof cogId !== "string") return refuse(response, 403);
    const name = safeFileName(decode(path.slice("/outputs/".length).split("?")[0] ?? ""));
    const type = request.headers["content-type"] ?? "";
    const length = request.headers["content-length"];
    let file: SpooledFile;
    try {
      file = await this.#spool.writeStream(
        request,
        name,
        type,
        scope.budget,
        length === undefined ? null : Number(length),
      );
    } catch (error) {
      if (!(error instanceof OutputRefused)) throw error;
      scope.refusal ??= error;
      return refuse(response, error.code === "output.too_large" ? 413 : 507);
    }
    // The prediction may have ended meanwhile.
    if (this.#scopes.get(cogId) !== scope) {
      await this.#spool.remove(file);
      return refuse(response, 403);
    }
    // Models name every file alike: the location, which becomes the output's value, is new for each.
    const location = `/outputs/${cogId}/${randomBytes(12).toString("base64url")}/${encodeURIComponent(name)}`;
    scope.outputs.set(location, file);
    response.writeHead(201, { location: this.#base + location });
    response.end();
  }

  #serve(request: IncomingMessage, response: ServerResponse, path: string): void {
    const input = this.#scopes.get(path.split("/")[2] ?? "")?.inputs.get(path);
    if (input === undefined) {
      refuse(response, 404);
      return;
    }
    response.writeHead(200, { "content-type": input.content_type, "content-length": input.size_bytes });
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    const stream = createReadStream(input.path);
    stream.on("error", () => response.destroy());
    stream.pipe(response);
  }
}

/** Null where it is larger than MODEL_EXPORT_BYTES_MAX. */
async function readExport(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MODEL_EXPORT_BYTES_MAX) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

function newSecret(): string {
  return randomBytes(24).toString("base64url");
}

function refuse(response: ServerResponse, status: number): void {
  response.writeHead(status, { connection: "close" });
  response.end();
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
