/**
 * Where the engine pulls from when the edge speaks plain http on loopback. Engines try TLS first, even there, and the edge waits for the rest of what it takes
 * for the beginning of a request: ten seconds are lost before each pull. This listens beside it, hangs up on TLS at once, and passes everything else on.
 */
import { connect, createServer, type Socket } from "node:net";

/** First byte of a TLS handshake; no method of HTTP begins with it. */
const TLS_HANDSHAKE = 0x16;
const CONNECTIONS_MAX = 64;

export class RegistryRelay {
  readonly #edge: URL;
  #listening: Promise<string> | null = null;

  constructor(edgeUrl: string) {
    this.#edge = new URL(edgeUrl);
  }

  /** Host and port for references of images. */
  host(): Promise<string> {
    if (this.#edge.protocol === "https:" || !/^(127\.\d+\.\d+\.\d+|localhost)$/.test(this.#edge.hostname)) {
      return Promise.resolve(this.#edge.host);
    }
    this.#listening ??= this.#listen();
    return this.#listening;
  }

  #listen(): Promise<string> {
    const server = createServer((socket) => this.#accept(socket));
    server.maxConnections = CONNECTIONS_MAX;
    // It ends with the process, and keeps none alive.
    server.unref();
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(0, "127.0.0.1", () => {
        const address = server.address();
        if (typeof address === "object" && address !== null) resolve(`127.0.0.1:${address.port}`);
        else reject(new Error("no port to pull through"));
      });
    });
  }

  #accept(socket: Socket): void {
    socket.on("error", () => socket.destroy());
    socket.once("data", (first: Buffer) => {
      if (first[0] === TLS_HANDSHAKE) {
        socket.destroy();
        return;
      }
      const port = Number(this.#edge.port === "" ? 80 : this.#edge.port);
      const edge = connect({ host: this.#edge.hostname, port });
      edge.on("error", () => socket.destroy());
      socket.on("close", () => edge.destroy());
      edge.on("close", () => socket.destroy());
      edge.write(first);
      socket.pipe(edge);
      edge.pipe(socket);
    });
  }
}
