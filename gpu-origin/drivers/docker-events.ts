/**
 * What the engine tells of this origin's containers, for as long as wanted: the stream is opened again whenever it breaks, and after each opening its owner
 * compares what runs with what he knows, since nothing is told of what happened in between.
 */
import { Readable } from "node:stream";
import { setTimeout as wait } from "node:timers/promises";
import { z } from "zod";
import { ORIGIN_LABEL } from "./docker-container.ts";
import { bounded, type Engine } from "./docker-engine.ts";
import { readLines } from "./lines.ts";

const PAUSE_FIRST_MS = 100;
const PAUSE_MAX_MS = 3_000;

const EventSchema = z.object({
  Action: z.string(),
  Actor: z.object({ ID: z.string(), Attributes: z.record(z.string(), z.string()).default({}) }),
});

export interface EventListener {
  /** the stream is open; rejecting closes it, and it is opened again */
  onOpen: () => Promise<void>;
  onDie: (containerId: string, code: number | null) => void;
  onOutOfMemory: (containerId: string) => void;
}

export class EngineEvents {
  readonly #engine: Engine;
  readonly #originId: string;
  readonly #listener: EventListener;
  #stopping = new AbortController();

  constructor(engine: Engine, originId: string, listener: EventListener) {
    this.#engine = engine;
    this.#originId = originId;
    this.#listener = listener;
  }

  /** Resolves when the stream is open for the first time, or could not be opened at once; it is kept open from then on. */
  start(): Promise<void> {
    return new Promise((resolve) => void this.#keepOpen(resolve));
  }

  stop(): void {
    this.#stopping.abort();
  }

  async #keepOpen(onTried: () => void): Promise<void> {
    const { signal } = this.#stopping;
    for (let pause = PAUSE_FIRST_MS; !signal.aborted; pause = Math.min(pause * 2, PAUSE_MAX_MS)) {
      try {
        if ((await this.#engine.negotiate()) === null) {
          await this.#read(signal, () => {
            pause = PAUSE_FIRST_MS;
            onTried();
          });
        }
      } catch {
        // The engine went away, or was not there: again.
      }
      onTried();
      await wait(pause, undefined, { signal }).catch(() => {});
    }
  }

  /** Resolves when the stream has ended. */
  async #read(signal: AbortSignal, onOpen: () => void): Promise<void> {
    const filters = { label: [`${ORIGIN_LABEL}=${this.#originId}`], event: ["die", "oom"] };
    const stream = await bounded(this.#engine.docker.getEvents({ filters }));
    if (!(stream instanceof Readable)) throw new Error("the engine's answer is no stream");
    const stop = (): void => void stream.destroy();
    signal.addEventListener("abort", stop);
    const ended = new Promise<void>((resolve) => {
      stream.once("close", resolve);
      stream.once("end", resolve);
      stream.once("error", () => resolve());
    });
    // Told from now on, so that nothing falls between this and the comparison.
    readLines(stream, (line) => this.#tell(line));
    try {
      await this.#listener.onOpen();
      onOpen();
      await ended;
    } finally {
      signal.removeEventListener("abort", stop);
      stream.destroy();
    }
  }

  #tell(line: string): void {
    if (line.trim() === "") return;
    const parsed = EventSchema.safeParse(parseJson(line));
    if (!parsed.success) return;
    const { Action, Actor } = parsed.data;
    if (Action === "oom") this.#listener.onOutOfMemory(Actor.ID);
    if (Action !== "die") return;
    const code = Number(Actor.Attributes.exitCode ?? Number.NaN);
    this.#listener.onDie(Actor.ID, Number.isInteger(code) ? code : null);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
