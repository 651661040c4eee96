/** A way to an engine's socket that can be cut and mended, as a restart of the engine looks to those who call it. */
import { createConnection, createServer, type Server, type Socket } from "node:net";

export class CuttableSocket {
  readonly path: string;
  readonly #target: string;
  readonly #open = new Set<Socket>();
  #server: Server | null = null;

  constructor(path: string, target: string) {
    this.path = path;
    this.#target = target;
  }

  async mend(): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (near) => {
      const far = createConnection({ path: this.#target, allowHalfOpen: true });
      for (const socket of [near, far]) {
        this.#open.add(socket);
        socket.on("error", () => {});
        socket.once("close", () => this.#open.delete(socket));
      }
      near.pipe(far);
      far.pipe(near);
      near.once("close", () => far.destroy());
      far.once("close", () => near.destroy());
    });
    await new Promise<void>((resolve) => server.listen(this.path, resolve));
    this.#server = server;
  }

  async cut(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    for (const socket of this.#open) socket.destroy();
    if (server !== null) await new Promise((resolve) => server.close(resolve));
  }
}
