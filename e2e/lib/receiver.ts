/** A receiver of webhooks on loopback: keeps every call with its bytes, and answers as a test says. */
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Prediction } from "./api.ts";

export interface WebhookCall {
  path: string;
  /** header webhook-id */
  id: string;
  headers: IncomingHttpHeaders;
  text: string;
  body: Prediction & { truncated?: boolean };
  /** milliseconds since the start of the process, when the whole call had come */
  at: number;
  /** how this call was answered */
  taken: boolean;
}

/** Answers a call; true when that was a good answer. */
export type Answer = (call: WebhookCall, response: ServerResponse) => boolean;

export const takeAll: Answer = (_call, response) => {
  response.writeHead(204).end();
  return true;
};

export class WebhookReceiver {
  readonly calls: WebhookCall[] = [];
  readonly url: string;
  answer: Answer;
  readonly #server: Server;

  private constructor(server: Server, answer: Answer) {
    this.#server = server;
    this.answer = answer;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async start(answer: Answer = takeAll): Promise<WebhookReceiver> {
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const receiver = new WebhookReceiver(server, answer);
    server.on("request", (request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const text = Buffer.concat(chunks).toString();
        const call: WebhookCall = {
          path: request.url ?? "",
          id: String(request.headers["webhook-id"]),
          headers: request.headers,
          text,
          body: JSON.parse(text),
          at: performance.now(),
          taken: false,
        };
        receiver.calls.push(call);
        call.taken = receiver.answer(call, response);
      });
    });
    return receiver;
  }

  /** Calls about one prediction, in the order they came. */
  about(id: string): WebhookCall[] {
    return this.calls.filter(({ body }) => body.id === id);
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}
