/**
 * Builds that the edge gives to this origin: taken once, run in their order a few at a time, ended by their end, their time or a cancel. What happens is told
 * as events (build-push.ts).
 */
import type { BuildStart, BuildState } from "../../schema/origin-protocol.ts";
import type { BuildStage } from "../../schema/packages.ts";
import type { EdgeClient } from "../edge-client.ts";
import type { Log } from "../log.ts";
import { readModel } from "../packaging/check-model.ts";
import { BuildLog } from "./build-log.ts";
import { BuildPush } from "./build-push.ts";
import { BuildStore } from "./build-store.ts";
import type { BuildResult } from "./builder.ts";
import type { VersionMaker } from "./make-version.ts";
import { UNTRUSTED } from "./process-builder.ts";
import type { SourceFetch } from "./source-fetch.ts";
import { builtOf, describe } from "./source-model.ts";

/** Builds that wait here; the edge places further ones elsewhere, or waits itself. */
export const BUILDS_QUEUED_MAX = 50;
const ERROR_CHARACTERS_MAX = 16_000;

export interface BuildQueueParts {
  /** SQLite file */
  path: string;
  edge: Pick<EdgeClient, "postBuildEvents">;
  sources: SourceFetch;
  maker: VersionMaker;
  /** whether models of others may be built here */
  runsUntrusted: boolean;
  /** builds at a time */
  atOnce: number;
  /** folders of this host, which logs do not show, longest first, and what stands for them */
  hidden: [string, string][];
  log: Log;
}

export type BuildTaken = { kind: "accepted"; state: BuildState } | { kind: "refused"; code: string; detail: string };

interface Queued {
  start: BuildStart;
  cancel: AbortController;
}

/** How a build ended, and what the edge is told of it besides. */
type End = { result: BuildResult; described?: ReturnType<typeof describe> };

export class BuildQueue {
  readonly #parts: BuildQueueParts;
  readonly #store: BuildStore;
  readonly #push: BuildPush;
  readonly #waiting: Queued[] = [];
  readonly #running = new Map<string, Queued & { ended: Promise<void> }>();
  /** since the start */
  readonly #ended = { built: 0, failed: 0, canceled: 0 };
  #isStopped = false;

  constructor(parts: BuildQueueParts) {
    this.#parts = parts;
    this.#store = new BuildStore(parts.path);
    this.#push = new BuildPush(this.#store, parts.edge, parts.log, (buildId) => this.#unwanted(buildId));
  }

  /** Begins to tell, once the edge knows this origin. */
  begin(): void {
    this.#push.start();
  }

  /** Takes a build once, however often it is sent. */
  start(start: BuildStart): BuildTaken {
    if (this.#isStopped) return { kind: "refused", code: "origin.draining", detail: "This origin is shutting down." };
    const known = this.#store.state(start.build_id);
    if (known !== null) return { kind: "accepted", state: known };
    if (!start.is_trusted && !this.#parts.runsUntrusted)
      return { kind: "refused", code: "build.untrusted", detail: UNTRUSTED };
    if (this.#waiting.length >= BUILDS_QUEUED_MAX) {
      return {
        kind: "refused",
        code: "build.queue_full",
        detail: `${BUILDS_QUEUED_MAX} builds wait at this origin already.`,
      };
    }
    this.#store.add(start.build_id);
    this.#waiting.push({ start, cancel: new AbortController() });
    this.#next();
    return { kind: "accepted", state: this.#stateOf(start.build_id) };
  }

  /** Null when this origin has not got it. */
  state(buildId: string): BuildState | null {
    return this.#isStopped ? null : this.#store.state(buildId);
  }

  /** Null when this origin has not got it. One that has ended is answered as it is. */
  cancel(buildId: string): BuildState | null {
    const at = this.#waiting.findIndex(({ start }) => start.build_id === buildId);
    if (at !== -1) {
      this.#waiting.splice(at, 1);
      this.#finish(buildId, 0, { result: { kind: "canceled" } });
    }
    this.#running.get(buildId)?.cancel.abort();
    return this.state(buildId);
  }

  /** Ends what runs; the edge finds out that it is lost, and starts it anew. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#waiting.length = 0;
    const running = [...this.#running.values()];
    for (const { cancel } of running) cancel.abort();
    await Promise.all(running.map(({ ended }) => ended));
    this.#push.stop();
    this.#store.close();
  }

  #stateOf(buildId: string): BuildState {
    return this.#store.state(buildId) ?? { build_id: buildId, state: "queued", last_event_i: -1 };
  }

  #unwanted(buildId: string): void {
    this.cancel(buildId);
    if (!this.#running.has(buildId)) this.#store.forget(buildId);
  }

  #next(): void {
    while (this.#running.size < this.#parts.atOnce && !this.#isStopped) {
      const queued = this.#waiting.shift();
      if (queued === undefined) return;
      const { build_id } = queued.start;
      this.#store.setRunning(build_id);
      const ended = this.#run(queued)
        .catch((error: unknown) => this.#parts.log.error({ build_id, err: error }, "a build could not be told"))
        .finally(() => {
          this.#running.delete(build_id);
          this.#next();
        });
      this.#running.set(build_id, { ...queued, ended });
    }
  }

  async #run({ start, cancel }: Queued): Promise<void> {
    const { build_id } = start;
    const began = performance.now();
    const at = (): number => Math.round(performance.now() - began);
    const log = new BuildLog(
      (data) => this.#append(build_id, { t_ms: at(), type: "log", data }, false),
      (line) => this.#shown(line),
    );
    const onStage = (stage: BuildStage): void => {
      log.flush();
      this.#append(build_id, { t_ms: at(), type: "stage", stage }, false);
    };
    this.#parts.log.info({ build_id, repository: start.repository }, "a build begins");
    const end = await this.#build(start, cancel.signal, onStage, (line) => log.add(line)).catch(
      (error: unknown): End => {
        this.#parts.log.error({ build_id, err: error }, "a build failed in an unknown way");
        const detail = error instanceof Error ? error.message : String(error);
        return { result: { kind: "failed", code: "build.failed", detail } };
      },
    );
    log.end();
    this.#parts.log.info({ build_id, result: end.result.kind, took_ms: at() }, "a build ended");
    if (!this.#isStopped) this.#finish(build_id, at(), end);
  }

  async #build(
    start: BuildStart,
    signal: AbortSignal,
    onStage: (stage: BuildStage) => void,
    onLine: (line: string) => void,
  ): Promise<End> {
    const { sources, maker } = this.#parts;
    const { repository, manifest, is_trusted, time_limit_ms, disk_limit_bytes } = start;
    const from = { kind: "source" as const, repository, manifest };
    const deadline = Date.now() + time_limit_ms;
    onStage("fetch");
    const limit = AbortSignal.any([signal, AbortSignal.timeout(time_limit_ms)]);
    const began = performance.now();
    const fetched = await sources.fetch({ package: from, disk_limit_bytes, signal: limit, onProgress: onLine });
    onLine(`fetch: ${((performance.now() - began) / 1000).toFixed(1)} s`);
    if (fetched.kind === "canceled") {
      if (signal.aborted) return { result: { kind: "canceled" } };
      const detail = `The source did not arrive within the bound of ${Math.ceil(time_limit_ms / 60_000)} minutes.`;
      return { result: { kind: "failed", code: "build.timeout", detail } };
    }
    if (fetched.kind === "failed") return { result: fetched };
    const { source, release } = fetched;
    try {
      const request = {
        source,
        is_trusted,
        signal,
        disk_limit_bytes,
        onStage,
        onLine,
        time_limit_ms: Math.max(1, deadline - Date.now()),
      };
      const result = await maker.make(request, from);
      return result.kind === "built"
        ? { result, described: describe(source.folder, readModel(source.folder).cogway) }
        : { result };
    } finally {
      release();
      maker.discard(source.id);
    }
  }

  /** For metrics. */
  counts(): { running: number; ended: Record<End["result"]["kind"], number> } {
    return { running: this.#running.size, ended: { ...this.#ended } };
  }

  #finish(buildId: string, t_ms: number, { result, described }: End): void {
    this.#ended[result.kind] += 1;
    const base = { t_ms, type: "finished" };
    if (result.kind === "built") {
      const { version, warnings } = result;
      const event = { ...base, status: "succeeded", version: builtOf(version), description: described, warnings };
      this.#append(buildId, event, true);
    } else if (result.kind === "failed") {
      const error = this.#shown(result.detail).slice(0, ERROR_CHARACTERS_MAX);
      this.#append(buildId, { ...base, status: "failed", code: result.code, error }, true);
    } else this.#append(buildId, { ...base, status: "canceled" }, true);
  }

  #append(buildId: string, event: Record<string, unknown>, isLast: boolean): void {
    if (this.#isStopped) return;
    try {
      this.#store.append(buildId, event, isLast);
    } catch (error) {
      // A full disk, most likely. Without its end the edge finds the build lost, and starts it elsewhere.
      this.#parts.log.error({ build_id: buildId, err: error }, "an event of a build could not be kept");
      if (isLast) this.#store.forget(buildId);
      return;
    }
    this.#push.wake(buildId);
  }

  #shown(text: string): string {
    return this.#parts.hidden.reduce((shown, [path, name]) => shown.replaceAll(path, name), text);
  }
}
