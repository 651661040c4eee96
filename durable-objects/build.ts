/**
 * Owns one build: where it is, its log and who reads it. What it does is decided by schema/builds.ts; here it is stored and carried out.
 *
 * | what is lost                          | what finds it                                                                        |
 * | ------------------------------------- | ------------------------------------------------------------------------------------ |
 * | the start of it at an origin          | `step`: starts it again there, which is idempotent                                   |
 * | events                                | the origin sends them until they are acknowledged; silence makes `step` ask it       |
 * | its origin, or what that knew of it   | `step`: it goes to another one                                                       |
 * | the making of its version             | the end comes again, since it is acknowledged afterwards; making it twice is harmless |
 * | its row of the catalog, a cancel      | `tell`, until both were heard                                                        |
 */
import { DurableObject } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { BuildDocument, BuildPublication } from "../schema/build-document.ts";
import {
  applyBuildEvents,
  BUILD_DISK_LIMIT_BYTES,
  BUILD_TIME_LIMIT_MS,
  type BuildHappening,
  type BuildRecord,
  isOriginLost,
  isSilent,
  lookAgainAt,
  newBuild,
  nextBuild,
  overdue,
} from "../schema/builds.ts";
import {
  type BuildAck,
  type BuildEvents,
  type BuildState,
  ORIGIN_PROTOCOL_VERSION,
} from "../schema/origin-protocol.ts";
import { builds } from "../schema/tables/index.ts";
import { Alarms } from "./alarms.ts";
import type { BuildApi, BuildToPublish, CreateBuild } from "./build-contract.ts";
import {
  type BuildPosition,
  buildLogKey,
  buildLogText,
  buildPage,
  buildPosition,
  doneEvent,
  logEvent,
  statusEvent,
} from "./build-log.ts";
import { type BuildRow, BuildStore, type LogChunk } from "./build-store.ts";
import { GroupCommit } from "./group-commit.ts";
import { buildState, cancelBuild, startBuild } from "./origin-client.ts";
import { READERS_PER_PREDICTION_MAX, StreamReaders } from "./stream-readers.ts";
import { fleetStub } from "./stubs.ts";

/** An origin that cannot be reached is told of a cancel for so long; it learns of it from its next events anyway. */
const TELL_MAX_MS = 600_000;
/** All readers here are of the one build. */
const READERS = "build";

/** An ended build, its log among it, is kept so long. */
const KEPT_MS = 90 * 86_400_000;

type Deadline = "step" | "tell" | "log" | "expire";

export class BuildObject extends DurableObject<Env> implements BuildApi {
  readonly #store = new BuildStore(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#store.forget();
    this.#alarms.forget();
  });
  readonly #publicUrl = this.env.PUBLIC_URL.replace(/\/+$/, "");
  readonly #readers = new StreamReaders<BuildPosition>({
    page: (_id, position, bytesMax) =>
      buildPage(
        { store: this.#store, files: this.env.FILES, publicUrl: this.#publicUrl, document: documentOf },
        position,
        bytesMax,
      ),
    waitingComment: async () => null,
    left: () => undefined,
  });
  #isStepping = false;

  async create(request: CreateBuild): Promise<BuildDocument> {
    const row = await this.#writes.run(() => {
      const known = this.#store.get();
      if (known !== null) return known;
      this.#store.create(request, newBuild(request.created_at));
      this.#alarms.set("step", Date.now());
      return this.#row();
    });
    // In the list before anybody can look; should it fail, `tell` does it.
    await this.#saveRow().catch(() => this.#alarms.setNoLaterThan("tell", Date.now()));
    return documentOf(row);
  }

  async get(): Promise<BuildDocument | null> {
    const row = this.#store.get();
    return row === null ? null : documentOf(row);
  }

  async cancel(): Promise<BuildDocument | null> {
    if (this.#store.get() === null) return null;
    await this.#happened({ type: "canceled" });
    return this.get();
  }

  async beginPublish(originId: string): Promise<BuildToPublish | null> {
    const row = this.#store.get();
    if (row === null || row.record.end !== null || row.record.origin?.id !== originId) return null;
    return (await this.#happened({ type: "publishing" })) ? row.request : null;
  }

  async applyEvents(
    events: BuildEvents["events"],
    originId: string,
    publication: BuildPublication | null,
  ): Promise<BuildAck> {
    const result = await this.#writes.run(() => {
      const row = this.#store.get();
      const through_i = events.at(-1)?.i ?? -1;
      if (row === null) return { ack: { through_i, outcome: "unknown" as const } };
      const { record } = row;
      if (record.origin?.id !== originId) return { ack: { through_i, outcome: "fenced" as const } };
      if (record.end !== null) {
        const isStored = through_i < record.origin.next_i;
        return { ack: { through_i, outcome: isStored ? ("stored" as const) : ("fenced" as const) } };
      }
      const next = applyBuildEvents(record, events, publication, Date.now());
      const chunks = this.#store.append(next.log);
      this.#save(next.record);
      const ack = { through_i: (next.record.origin?.next_i ?? 0) - 1, outcome: "stored" as const };
      return { ack, before: record, chunks };
    });
    if (result.before !== undefined) this.#broadcast(result.before, result.chunks);
    return result.ack;
  }

  // ---- changes

  #row(): BuildRow {
    const row = this.#store.get();
    if (row === null) throw new Error("there is no build here");
    return row;
  }

  /** Stores what follows from something that happened. False where it changes nothing. */
  async #happened(happening: BuildHappening): Promise<boolean> {
    const change = await this.#writes.run(() => {
      const { record } = this.#row();
      const next = nextBuild(record, happening, Date.now());
      if (next === null) return null;
      const line = happening.type === "lost" && next.waiting_for !== null ? [`${next.waiting_for}\n`] : [];
      const chunks = this.#store.append(line);
      this.#save(next);
      return { before: record, chunks };
    });
    if (change !== null) this.#broadcast(change.before, change.chunks);
    return change !== null;
  }

  /** Inside a write. */
  #save(record: BuildRecord): void {
    const before = this.#row().record;
    this.#store.save(record);
    const now = Date.now();
    const next = lookAgainAt(record, now);
    if (next === null) this.#alarms.clear("step");
    else this.#alarms.set("step", next);
    if (record.status !== before.status) this.#alarms.setNoLaterThan("tell", now);
    if (record.end === null) return;
    this.#alarms.setNoLaterThan("log", now);
    this.#alarms.set("expire", now + KEPT_MS);
  }

  #broadcast(before: BuildRecord, chunks: LogChunk[]): void {
    if (this.#readers.count(READERS) === 0) return;
    const row = this.#row();
    const document = documentOf(row);
    const { record } = row;
    const isNews =
      before.status !== record.status || before.stage !== record.stage || before.waiting_for !== record.waiting_for;
    const isOver = record.end !== null;
    const text = [
      isNews ? statusEvent(document, row.log_end) : "",
      ...chunks.map(logEvent),
      isOver ? doneEvent(document, row.log_end, this.#publicUrl) : "",
    ].join("");
    if (text !== "") this.#readers.broadcast(READERS, text, isOver);
  }

  // ---- deadlines

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (this.#store.get() === null) return;
      if (name === "step") await this.#step();
      else if (name === "tell") await this.#tell();
      else if (name === "log") await this.#moveLog();
      else await this.#remove();
    });
  }

  /** What is to be done for a build that goes on: a place, a start, or a question to an origin that is silent. */
  async #step(): Promise<void> {
    if (this.#isStepping) return;
    this.#isStepping = true;
    try {
      const now = Date.now();
      const { record } = this.#row();
      const late = overdue(record, now);
      if (late !== null) await this.#happened({ type: "failed", ...late });
      else if (record.end === null && record.origin === null) await this.#place();
      else if (record.end === null && record.origin?.is_accepted === false) await this.#start();
      else if (record.end === null && isSilent(record, now)) await this.#ask();
    } finally {
      this.#isStepping = false;
      await this.#writes.run(() => {
        const at = lookAgainAt(this.#row().record, Date.now());
        if (at !== null) this.#alarms.setNoLaterThan("step", at);
      });
    }
  }

  async #place(): Promise<void> {
    const { request, record } = this.#row();
    const place = await fleetStub(this.env).placeBuild(request.id, request.is_trusted, record.except);
    if ("refused" in place) {
      await this.#happened({ type: "not_placed", reason: place.refused });
      return;
    }
    if (await this.#happened({ type: "placed", origin_id: place.origin_id })) await this.#start();
  }

  async #start(): Promise<void> {
    const { request, record } = this.#row();
    if (record.origin === null) return;
    const answer = await startBuild(this.env, record.origin.id, {
      protocol: ORIGIN_PROTOCOL_VERSION,
      build_id: request.id,
      repository: `${request.owner}/${request.name}`,
      manifest: request.manifest,
      is_trusted: request.is_trusted,
      time_limit_ms: BUILD_TIME_LIMIT_MS,
      disk_limit_bytes: BUILD_DISK_LIMIT_BYTES,
    });
    if (answer.kind === "state") {
      await this.#accepted(answer.state);
    } else {
      const detail = answer.kind === "unknown" ? "it answers no builds" : answer.detail;
      await this.#happened({ type: "not_accepted", reason: `An origin did not take it: ${detail}` });
    }
  }

  async #ask(): Promise<void> {
    const { request, record } = this.#row();
    if (record.origin === null) return;
    const answer = await buildState(this.env, record.origin.id, request.id);
    if (answer.kind === "state") {
      await this.#accepted(answer.state);
    } else if (answer.kind === "unknown" || isOriginLost(record, Date.now())) {
      await this.#happened({ type: "lost", is_away: answer.kind !== "unknown" });
    }
  }

  async #accepted({ state, last_event_i }: BuildState): Promise<void> {
    await this.#happened({ type: "accepted", is_queued: state === "queued", last_event_i });
  }

  /** Tells the catalog how it stands, and of an end the fleet and an origin that has it still. Throws until all have heard. */
  async #tell(): Promise<void> {
    await this.#saveRow();
    const { request, record } = this.#row();
    if (record.end === null) return;
    if (record.origin !== null) await fleetStub(this.env).buildEnded(request.id, record.origin.id);
    const isOurs = record.end.status === "canceled" || record.end.code === "build.timeout";
    if (!isOurs || record.origin === null || Date.now() - (record.completed_at ?? 0) > TELL_MAX_MS) return;
    const answer = await cancelBuild(this.env, record.origin.id, request.id);
    if (answer.kind === "unreachable") throw new Error(answer.detail);
  }

  async #saveRow(): Promise<void> {
    const { request, record } = this.#row();
    const { id, owner, name, manifest, created_at } = request;
    const now = {
      status: record.status,
      version_id: record.end?.version_id ?? null,
      error: record.end?.error ?? null,
      completed_at: record.completed_at,
    };
    await drizzle(this.env.DB)
      .insert(builds)
      .values({ id, owner, name, manifest, created_at, ...now })
      .onConflictDoUpdate({ target: builds.id, set: now });
  }

  async #moveLog(): Promise<void> {
    const { request, record, is_log_moved, log_start } = this.#row();
    if (record.end === null || is_log_moved) return;
    const { text } = this.#store.read(log_start, Number.MAX_SAFE_INTEGER);
    await this.env.FILES.put(buildLogKey(request.id), text, {
      httpMetadata: { contentType: "text/plain; charset=utf-8" },
    });
    await this.#writes.run(() => this.#store.logMoved());
  }

  async #remove(): Promise<void> {
    const { id } = this.#row().request;
    await this.env.FILES.delete(buildLogKey(id));
    await drizzle(this.env.DB).delete(builds).where(eq(builds.id, id));
    await this.ctx.storage.deleteAll();
    this.#store.forget();
    this.#alarms.forget();
  }

  // ---- readers

  override async fetch(request: Request): Promise<Response> {
    if (this.#store.get() === null) return new Response(null, { status: 404 });
    if (new URL(request.url).pathname === "/logs") {
      return new Response(await buildLogText(this.env.FILES, this.#store));
    }
    if (this.#readers.count(READERS) >= READERS_PER_PREDICTION_MAX) return new Response(null, { status: 429 });
    const position = buildPosition(request.headers.get("last-event-id"));
    return new Response(this.#readers.open(READERS, position, request.signal), {
      headers: { "content-type": "text/event-stream" },
    });
  }
}

function documentOf({ request, record }: BuildRow): BuildDocument {
  const { id, owner, name, manifest, created_at } = request;
  const { status, stage, stages = [], waiting_for, started_at, completed_at } = record;
  const none = { version_id: null, error: null, code: null, warnings: [], schema_diff: null, test_prediction_id: null };
  return {
    ...{ id, owner, name, manifest, created_at },
    ...none,
    ...record.end,
    ...{ status, stage, stages, waiting_for, started_at, completed_at },
  };
}
