/** What a model must not reach, seen from outside: ports of this host that count whoever connects, and a file that says whether it was read or changed. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";

export class Canaries {
  /** of those who connected */
  readonly connections: string[] = [];
  readonly mark = `canary-${crypto.randomUUID()}`;
  readonly file: string;
  readonly #folder = mkdtempSync(join(tmpdir(), "cogway-canary-"));
  readonly #servers: Server[] = [];
  /** listens on every address of the host */
  port = 0;
  /** listens on loopback alone */
  loopbackPort = 0;

  private constructor() {
    this.file = join(this.#folder, "canary");
    writeFileSync(this.file, this.mark);
  }

  static async start(): Promise<Canaries> {
    const canaries = new Canaries();
    canaries.port = await canaries.#listen("::");
    canaries.loopbackPort = await canaries.#listen("127.0.0.1");
    return canaries;
  }

  async #listen(host: string): Promise<number> {
    const server = createServer((socket) => {
      this.connections.push(`${socket.remoteAddress} to ${socket.localAddress}:${socket.localPort}`);
      socket.on("error", () => {});
      socket.destroy();
    });
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, host, resolve));
    const address = server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  isFileUntouched(): boolean {
    return readFileSync(this.file, "utf8") === this.mark;
  }

  /** IPv4 addresses of this host, its bridges' included. */
  static hostAddresses(): string[] {
    return Object.values(networkInterfaces())
      .flat()
      .flatMap((each) => (each !== undefined && each.family === "IPv4" && !each.internal ? [each.address] : []));
  }

  async stop(): Promise<void> {
    for (const server of this.#servers) await new Promise((resolve) => server.close(resolve));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
