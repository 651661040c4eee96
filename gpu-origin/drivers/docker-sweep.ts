/**
 * Removes coglet's folders of ended predictions from inside the container, by a program that the model's user runs there: from outside, a model could lead
 * the way through a link to somewhere else. A program in a container costs tens of milliseconds, so those of a second go together.
 */
import type { Engine } from "./docker-engine.ts";
import { bounded } from "./docker-engine.ts";

const FOLDER = "/tmp/coglet/predictions";
const DELAY_MS = 1_000;
/** Folders that one program removes. */
const BATCH_MAX = 500;
/** Beyond this the oldest are forgotten: their folders are empty nearly always. */
const WAITING_MAX = 10_000;

export class FolderSweep {
  readonly #engine: Engine;
  /** by container */
  readonly #waiting = new Map<string, string[]>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  add(containerId: string, cogId: string): void {
    const waiting = this.#waiting.get(containerId);
    if (waiting !== undefined) {
      if (waiting.push(cogId) > WAITING_MAX) waiting.shift();
      return;
    }
    this.#waiting.set(containerId, [cogId]);
    this.#later(containerId);
  }

  #later(containerId: string): void {
    setTimeout(() => {
      const batch = this.#waiting.get(containerId)?.splice(0, BATCH_MAX) ?? [];
      if (batch.length === 0) {
        this.#waiting.delete(containerId);
        return;
      }
      // A container that is gone took its folders with it.
      void this.#remove(containerId, batch)
        .catch(() => this.#waiting.delete(containerId))
        .finally(() => this.#later(containerId));
    }, DELAY_MS).unref();
  }

  async #remove(containerId: string, cogIds: string[]): Promise<void> {
    const container = this.#engine.docker.getContainer(containerId);
    const Cmd = ["rm", "-rf", "--", ...cogIds.map((id) => `${FOLDER}/${id}`)];
    const exec = await bounded(container.exec({ Cmd }));
    await bounded(exec.start({ Detach: true }));
  }
}
