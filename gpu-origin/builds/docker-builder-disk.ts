/** Ends a build that fills the engine's disk: BuildKit itself has no bound. Sees the disk only where the engine runs on this host. */
import type Docker from "dockerode";
import { freeBytes, megabytes } from "./disk.ts";

const LOOK_MS = 1_000;
/** Left for everything else on that disk. */
const DISK_RESERVE_BYTES = 1024 ** 3;

export const DISK_FULL = "The disk of the container engine is full. Make room on the host, then push again.";

export class DiskWatch {
  readonly #docker: Docker;
  readonly #limitBytes: number;
  readonly #abort = new AbortController();
  #timer: NodeJS.Timeout | null = null;
  #detail = "";

  constructor(docker: Docker, limitBytes: number) {
    this.#docker = docker;
    this.#limitBytes = limitBytes;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Why it ended the build. */
  get detail(): string {
    return this.#detail;
  }

  async start(): Promise<void> {
    const info: { DockerRootDir?: string } = await this.#docker.info();
    const root = info.DockerRootDir ?? "";
    const before = await freeBytes(root).catch(() => null);
    if (before === null) return;
    const look = async (): Promise<void> => {
      const free = await freeBytes(root).catch(() => null);
      if (free === null) return;
      if (before - free > this.#limitBytes) {
        this.#end(
          `The build filled more than ${megabytes(this.#limitBytes)}, its bound. Leave packages out, or take smaller ones.`,
        );
      } else if (free < DISK_RESERVE_BYTES) {
        this.#end(DISK_FULL);
      }
    };
    await look();
    if (!this.#abort.signal.aborted) this.#timer = setInterval(() => void look(), LOOK_MS);
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #end(detail: string): void {
    this.#detail = detail;
    this.#abort.abort();
    this.stop();
  }
}
