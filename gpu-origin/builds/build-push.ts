/**
 * Sends the events of builds to the edge: of each build one batch at a time, the next when it was acknowledged. Batches are read from the store, so what was
 * left when the edge or this process was away is sent when both are there again.
 */
import { ORIGIN_PROTOCOL_VERSION } from "../../schema/origin-protocol.ts";
import type { EdgeClient } from "../edge-client.ts";
import type { Log } from "../log.ts";
import type { BuildStore } from "./build-store.ts";

const BATCH_BYTES_MAX = 524_288;
const BATCH_EVENTS_MAX = 500;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;

export class BuildPush {
  readonly #store: BuildStore;
  readonly #edge: Pick<EdgeClient, "postBuildEvents">;
  readonly #log: Log;
  /** the edge does not want this build any more */
  readonly #onUnwanted: (buildId: string) => void;
  readonly #sending = new Set<string>();
  readonly #retries = new Map<string, NodeJS.Timeout>();
  #isRunning = false;

  constructor(
    store: BuildStore,
    edge: Pick<EdgeClient, "postBuildEvents">,
    log: Log,
    onUnwanted: (buildId: string) => void,
  ) {
    this.#store = store;
    this.#edge = edge;
    this.#log = log;
    this.#onUnwanted = onUnwanted;
  }

  /** Begins to send, once the edge knows this origin. */
  start(): void {
    this.#isRunning = true;
    for (const buildId of this.#store.unsent()) this.wake(buildId);
  }

  stop(): void {
    this.#isRunning = false;
    for (const timer of this.#retries.values()) clearTimeout(timer);
  }

  /** There are events of this build. */
  wake(buildId: string): void {
    if (!this.#isRunning || this.#sending.has(buildId) || this.#retries.has(buildId)) return;
    this.#sending.add(buildId);
    void this.#send(buildId).catch((error: unknown) => {
      this.#sending.delete(buildId);
      this.#log.error({ build_id: buildId, err: error }, "events of a build cannot be sent");
    });
  }

  async #send(buildId: string): Promise<void> {
    // Before it returns, not behind it: what is appended a moment later wakes it anew.
    const done = (): void => void this.#sending.delete(buildId);
    let failures = 0;
    for (;;) {
      const events = this.#isRunning ? batchOf(this.#store.pending(buildId, BATCH_BYTES_MAX, BATCH_EVENTS_MAX)) : [];
      if (events.length === 0) return done();
      const body = `{"protocol":${ORIGIN_PROTOCOL_VERSION},"events":[${events.join(",")}]}`;
      const answer = await this.#edge.postBuildEvents(buildId, body);
      if (!this.#isRunning) return done();
      const isUnknown = answer.kind === "refused" && answer.status === 404;
      if (isUnknown || (answer.kind === "ok" && answer.value.outcome !== "stored")) {
        this.#store.acknowledge(buildId, Number.MAX_SAFE_INTEGER);
        this.#onUnwanted(buildId);
        return done();
      }
      if (answer.kind === "ok") {
        this.#store.acknowledge(buildId, answer.value.through_i);
        const [first = ""] = this.#store.pending(buildId, 0, 1);
        // Stored, but not all: the version of a good end could not be made just now.
        if (first !== events[0]) {
          failures = 0;
          continue;
        }
      } else if (failures === 0) {
        this.#log.warn({ build_id: buildId, detail: answer.detail }, "events of a build were not stored, trying again");
      }
      failures += 1;
      const pause = Math.min(RETRY_FIRST_MS * 2 ** Math.min(failures - 1, 10), RETRY_MAX_MS) * (0.5 + Math.random());
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, pause);
        timer.unref();
        this.#retries.set(buildId, timer);
      });
      this.#retries.delete(buildId);
    }
  }
}

/** A stage begins a batch: the edge tells its readers the stage of a batch before its lines. */
function batchOf(events: string[]): string[] {
  const next = events.findIndex((event, at) => at > 0 && event.includes('"type":"stage"'));
  return next === -1 ? events : events.slice(0, next);
}
