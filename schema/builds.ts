/**
 * The life of a build: `queued` until an origin takes it, `building` there, then an end that never changes. Pure: a record and what happened in, the next
 * record out. Builds may be repeated (two of one source give one version), so an origin that is lost is no end: another one takes it.
 */
import type { BuildDocument, BuildEnd, BuildPublication } from "./build-document.ts";
import { LEASE_TTL_MS } from "./origin-protocol.ts";
import type { BuildEvent } from "./packages.ts";

/** What a build may take at its origin, from its first stage on. Wheels of the large frameworks alone take minutes. */
export const BUILD_TIME_LIMIT_MS = 3_600_000;
/** Its source, environment and image together: the environments of the large frameworks take some 10 GB. */
export const BUILD_DISK_LIMIT_BYTES = 34_359_738_368;
/** It waits so long for an origin that builds, and then for its turn there. */
export const BUILD_WAIT_MAX_MS = 600_000;
export const BUILD_QUEUE_MAX_MS = 6 * BUILD_TIME_LIMIT_MS;
/** Beyond its time limit, for the origin to say itself that it ended there. */
const TIME_LIMIT_GRACE_MS = 120_000;
/** No origin for it: asked for again after this. */
const PLACE_AGAIN_MS = 5_000;
/** Origins that begin it; more than one is lost only where a build breaks its host. */
export const BUILD_TRIES_MAX = 3;
/** An origin that cannot be reached for so long is lost. */
const ORIGIN_LOST_MS = 60_000;
/** Making the version after a good end takes a moment; a Worker that died in it is waited for so long before another cancel counts. */
const PUBLISH_MAX_MS = 60_000;
/** Of a message for people; more is in the log. */
const ERROR_CHARACTERS_MAX = 16_384;
/** Far more than there are: an origin that tells the same ones over and over is cut short. */
const STAGES_MAX = 20;
const WARNINGS_MAX = 50;
const WARNING_CHARACTERS_MAX = 1_000;

export interface BuildRecord {
  status: BuildDocument["status"];
  stage: string | null;
  /** stages that it has begun at the origin where it is; absent in records of before */
  stages?: BuildDocument["stages"];
  waiting_for: string | null;
  /** where it is, or is to be; null while none was found */
  origin: {
    id: string;
    /** it has said that it has the build */
    is_accepted: boolean;
    /** the first event that is not stored */
    next_i: number;
    heard_at: number;
    /** when its first event came: it had its turn there */
    began_at: number | null;
  } | null;
  /** the origin that could not be reached any more: should it turn out to have gone on, so does the build */
  left: { id: string; next_i: number } | null;
  /** origins that have taken it */
  tries: number;
  /** origins that could not take it just now */
  except: string[];
  /** when the making of its version began */
  publishing_at: number | null;
  /** of the time that it has been looking for an origin */
  waiting_since: number;
  end: BuildEnd | null;
  /** when its first origin took it */
  started_at: number | null;
  completed_at: number | null;
}

export function newBuild(now: number): BuildRecord {
  return {
    status: "queued",
    stage: null,
    stages: [],
    waiting_for: null,
    origin: null,
    left: null,
    tries: 0,
    except: [],
    publishing_at: null,
    waiting_since: now,
    end: null,
    started_at: null,
    completed_at: null,
  };
}

export type BuildHappening =
  | { type: "placed"; origin_id: string }
  /** no origin takes it now */
  | { type: "not_placed"; reason: string }
  /** its origin has it, with events up to this one; `is_queued`: and builds others first */
  | { type: "accepted"; is_queued: boolean; last_event_i: number }
  /** its origin did not take it */
  | { type: "not_accepted"; reason: string }
  /** its origin had it, and has it no more; or cannot be reached */
  | { type: "lost"; is_away: boolean }
  | { type: "publishing" }
  | { type: "canceled" }
  | { type: "failed"; code: string; error: string };

/** Null where it changes nothing: the build has ended, or it is not of the build as it stands. */
export function nextBuild(record: BuildRecord, happening: BuildHappening, now: number): BuildRecord | null {
  if (record.end !== null) return null;
  const { origin } = record;
  switch (happening.type) {
    case "placed":
      if (origin !== null) return null;
      return {
        ...record,
        waiting_for: null,
        origin: {
          id: happening.origin_id,
          is_accepted: false,
          next_i: record.left?.id === happening.origin_id ? record.left.next_i : 0,
          heard_at: now,
          began_at: null,
        },
      };
    case "not_placed":
      if (origin !== null) return null;
      return { ...record, waiting_for: happening.reason, except: [] };
    case "accepted":
      if (origin === null) return null;
      return {
        ...record,
        status: "building",
        waiting_for: happening.is_queued ? "The origin builds others first." : null,
        origin: {
          ...origin,
          ...{ is_accepted: true, heard_at: now },
          // Fewer than it has told already: it began anew.
          next_i: happening.last_event_i + 1 < origin.next_i ? 0 : origin.next_i,
        },
        left: null,
        tries: origin.is_accepted ? record.tries : record.tries + 1,
        started_at: record.started_at ?? now,
      };
    case "not_accepted":
      if (origin === null || origin.is_accepted) return null;
      return { ...waiting(record, happening.reason), except: [...record.except, origin.id] };
    case "lost": {
      if (origin === null) return null;
      if (record.tries >= BUILD_TRIES_MAX) {
        const error = `The origins that built it were lost, ${record.tries} times in a row: what it does may break its host, such as taking all memory.`;
        return ended(record, { status: "failed", code: "build.origin_lost", error }, now);
      }
      return {
        ...waiting(record, "The origin that built it was lost; another one begins anew."),
        ...{ except: [origin.id], waiting_since: now },
        left: happening.is_away ? { id: origin.id, next_i: origin.next_i } : null,
      };
    }
    case "publishing":
      return { ...record, publishing_at: now };
    case "canceled":
      if (record.publishing_at !== null && now - record.publishing_at < PUBLISH_MAX_MS) return null;
      return ended(record, { status: "canceled" }, now);
    case "failed":
      return ended(record, { status: "failed", code: happening.code, error: happening.error }, now);
  }
}

function waiting(record: BuildRecord, reason: string): BuildRecord {
  return {
    ...record,
    status: "queued",
    stage: null,
    stages: [],
    waiting_for: reason,
    origin: null,
    publishing_at: null,
  };
}

function ended(record: BuildRecord, end: Partial<BuildEnd> & { status: BuildEnd["status"] }, now: number): BuildRecord {
  const none = { version_id: null, error: null, code: null, warnings: [], schema_diff: null, test_prediction_id: null };
  return { ...record, status: end.status, waiting_for: null, end: { ...none, ...end }, completed_at: now };
}

/**
 * Takes in what its origin tells, and answers the text for its log. Repeats change nothing, and what comes behind a gap is left for later. A good end counts
 * once its version was made: `publication`.
 */
export function applyBuildEvents(
  record: BuildRecord,
  events: readonly BuildEvent[],
  publication: BuildPublication | null,
  now: number,
): { record: BuildRecord; log: string[] } {
  if (record.origin === null) return { record, log: [] };
  const log: string[] = [];
  let { stage, stages = [] } = record;
  let { next_i } = record.origin;
  const began_at = record.origin.began_at ?? now;
  let end: (Partial<BuildEnd> & { status: BuildEnd["status"] }) | null = null;
  for (const event of events) {
    if (event.i < next_i) continue;
    if (event.i > next_i || end !== null) break;
    if (event.i === 0) stages = [];
    if (event.type === "finished") {
      if (event.status === "succeeded" && publication === null) break;
      end = endOf(event, publication);
    } else if (event.type === "stage") {
      stage = event.stage;
      if (stages.length < STAGES_MAX) stages = [...stages, { name: stage, started_at: began_at + event.t_ms }];
    } else log.push(event.data);
    next_i += 1;
  }
  const origin = { ...record.origin, is_accepted: true, next_i, heard_at: now };
  const next: BuildRecord = {
    ...record,
    status: "building",
    ...{ stage, stages },
    waiting_for: null,
    origin: { ...origin, began_at },
    tries: record.origin.is_accepted ? record.tries : record.tries + 1,
    started_at: record.started_at ?? now,
  };
  return { record: end === null ? next : ended(next, end, now), log };
}

function endOf(
  event: Extract<BuildEvent, { type: "finished" }>,
  publication: BuildPublication | null,
): Partial<BuildEnd> & { status: BuildEnd["status"] } {
  const warnings = (event.warnings ?? []).slice(0, WARNINGS_MAX).map((line) => line.slice(0, WARNING_CHARACTERS_MAX));
  if (event.status === "canceled") return { status: "canceled", warnings };
  if (event.status === "failed" || publication === null) {
    const error = (event.error ?? "The build failed. Its log says why.").slice(0, ERROR_CHARACTERS_MAX);
    return { status: "failed", code: event.code ?? "build.failed", error, warnings };
  }
  const { schema_diff } = publication;
  if (publication.kind === "refused") {
    return { status: "failed", code: publication.code, error: publication.detail, warnings, schema_diff };
  }
  const { version_id, test_prediction_id, is_new } = publication;
  const known = `Version ${version_id.slice(0, 12)} was there already, of equal content: no second one was made.`;
  return {
    status: "succeeded",
    ...{ version_id, test_prediction_id, schema_diff },
    warnings: is_new ? warnings : [known, ...warnings],
  };
}

/** What a build is to be ended for by time alone; null when it may go on. */
export function overdue(record: BuildRecord, now: number): { code: string; error: string } | null {
  if (record.end !== null) return null;
  const { origin } = record;
  if (origin === null || !origin.is_accepted) {
    if (now - record.waiting_since < BUILD_WAIT_MAX_MS) return null;
    const reason = record.waiting_for ?? "No origin took it.";
    return { code: "build.refused", error: `Nothing could build it within ${minutes(BUILD_WAIT_MAX_MS)}. ${reason}` };
  }
  const limit = BUILD_TIME_LIMIT_MS + TIME_LIMIT_GRACE_MS;
  if (origin.began_at !== null && now - origin.began_at >= limit) {
    const error = `The build took longer than ${minutes(BUILD_TIME_LIMIT_MS)}. Its log shows what took so long.`;
    return { code: "build.timeout", error };
  }
  if (origin.began_at === null && now - record.waiting_since >= BUILD_QUEUE_MAX_MS) {
    return { code: "build.timeout", error: `Its turn did not come within ${minutes(BUILD_QUEUE_MAX_MS)}. Push again.` };
  }
  return null;
}

function minutes(ms: number): string {
  return `${ms / 60_000} minutes`;
}

/** Whether its origin has been silent for so long that it is to be asked. */
export function isSilent(record: BuildRecord, now: number): boolean {
  return record.origin !== null && now - record.origin.heard_at >= LEASE_TTL_MS;
}

/** Whether an origin that cannot be reached counts as lost. */
export function isOriginLost(record: BuildRecord, now: number): boolean {
  return record.origin !== null && now - record.origin.heard_at >= ORIGIN_LOST_MS;
}

/** When something is to be done for it again, should nothing come; null when it has ended. */
export function lookAgainAt(record: BuildRecord, now: number): number | null {
  if (record.end !== null) return null;
  if (record.origin === null || !record.origin.is_accepted) return now + PLACE_AGAIN_MS;
  return Math.max(record.origin.heard_at + LEASE_TTL_MS, now + PLACE_AGAIN_MS);
}
