/**
 * The signed calls from the edge to an origin. Each is idempotent at the origin, so one that broke is sent once more; answers are parsed;
 * outcomes are values. Nothing here decides what a failure means for a prediction.
 */
import { z } from "zod";
import {
  type AttemptCancel,
  type AttemptStart,
  type AttemptState,
  AttemptStateSchema,
  type BuildStart,
  type BuildState,
  BuildStateSchema,
  type InstanceBoot,
  type InstanceDrainSchema,
  type InstanceStatus,
  InstanceStatusSchema,
} from "../schema/origin-protocol.ts";
import { signRequest } from "../schema/request-signature.ts";
import type { OriginEntry } from "./fleet-contract.ts";
import { originEntry } from "./origin-directory.ts";

/** An origin only writes its journal before it answers; longer means that it is gone or its host is. */
const ATTEMPT_CALL_TIMEOUT_MS = 5_000;
/** Booting answers before the process runs, but the host may be busy with another boot. */
const INSTANCE_CALL_TIMEOUT_MS = 10_000;

const RefusalSchema = z.object({ code: z.string(), detail: z.string().default("") });

type Answer =
  | { kind: "ok"; body: unknown }
  | { kind: "refused"; status: number; code: string; detail: string }
  | { kind: "unreachable"; detail: string };

/** Starts an attempt once, however often it is called. `accepted` means that it is in the origin's journal. */
export async function startAttempt(
  env: Env,
  originId: string,
  start: AttemptStart,
): Promise<
  | { kind: "accepted"; state: AttemptState }
  | { kind: "refused"; code: string; detail: string }
  | { kind: "unreachable"; detail: string }
> {
  const path = attemptPath(start.prediction_id, start.attempt);
  const answer = await callOrigin(env, originId, "PUT", path, start, ATTEMPT_CALL_TIMEOUT_MS);
  if (answer.kind === "refused") return { kind: "refused", code: answer.code, detail: answer.detail };
  if (answer.kind === "unreachable") return answer;
  const state = AttemptStateSchema.safeParse(answer.body);
  return state.success ? { kind: "accepted", state: state.data } : unreadable(originId);
}

/** What the origin knows of an attempt. `unknown`: it lost it, or never had it. */
export async function attemptState(
  env: Env,
  originId: string,
  id: string,
  attempt: number,
): Promise<{ kind: "state"; state: AttemptState } | { kind: "unknown" } | { kind: "unreachable"; detail: string }> {
  const answer = await callOrigin(env, originId, "GET", attemptPath(id, attempt), null, ATTEMPT_CALL_TIMEOUT_MS);
  return attemptAnswer(answer, originId);
}

/** Asks for the end of an attempt; the end itself comes as an event. */
export async function cancelAttempt(
  env: Env,
  originId: string,
  id: string,
  attempt: number,
  body: AttemptCancel,
): Promise<{ kind: "state"; state: AttemptState } | { kind: "unknown" } | { kind: "unreachable"; detail: string }> {
  const path = `${attemptPath(id, attempt)}/cancel`;
  return attemptAnswer(await callOrigin(env, originId, "POST", path, body, ATTEMPT_CALL_TIMEOUT_MS), originId);
}

type InstanceAnswer =
  | { kind: "accepted"; status: InstanceStatus }
  | { kind: "refused"; code: string; detail: string }
  | { kind: "unreachable"; detail: string };

/** Starts an instance; idempotent by its id. Takes the entry, since only the FleetObject, its owner, calls this. */
export async function bootInstance(env: Env, origin: OriginEntry, boot: InstanceBoot): Promise<InstanceAnswer> {
  return instanceAnswer(await call(env, origin, "POST", "/v1/instances", boot, INSTANCE_CALL_TIMEOUT_MS), origin);
}

/** Lets an instance finish what runs, then stop. */
export async function drainInstance(
  env: Env,
  origin: OriginEntry,
  instanceId: string,
  body: z.infer<typeof InstanceDrainSchema>,
): Promise<InstanceAnswer> {
  const path = `/v1/instances/${encodeURIComponent(instanceId)}/drain`;
  return instanceAnswer(await call(env, origin, "POST", path, body, INSTANCE_CALL_TIMEOUT_MS), origin);
}

/** Holds an idle instance in memory without running; `refused` where it is not idle, or the driver cannot. Answers when it stands still. */
export function pauseInstance(env: Env, origin: OriginEntry, instanceId: string): Promise<InstanceAnswer> {
  return changeInstance(env, origin, instanceId, "pause");
}

/** Lets a paused instance run on. */
export function resumeInstance(env: Env, origin: OriginEntry, instanceId: string): Promise<InstanceAnswer> {
  return changeInstance(env, origin, instanceId, "resume");
}

async function changeInstance(
  env: Env,
  origin: OriginEntry,
  instanceId: string,
  what: "pause" | "resume",
): Promise<InstanceAnswer> {
  const path = `/v1/instances/${encodeURIComponent(instanceId)}/${what}`;
  return instanceAnswer(await call(env, origin, "POST", path, null, INSTANCE_CALL_TIMEOUT_MS), origin);
}

type BuildAnswer =
  | { kind: "state"; state: BuildState }
  | { kind: "unknown" }
  | { kind: "refused"; code: string; detail: string }
  | { kind: "unreachable"; detail: string };

/** Starts a build once, however often it is called. */
export async function startBuild(env: Env, originId: string, start: BuildStart): Promise<BuildAnswer> {
  const path = buildPath(start.build_id);
  return buildAnswer(await callOrigin(env, originId, "PUT", path, start, INSTANCE_CALL_TIMEOUT_MS), originId);
}

/** What the origin knows of a build. `unknown`: it lost it, or never had it. */
export async function buildState(env: Env, originId: string, buildId: string): Promise<BuildAnswer> {
  const path = buildPath(buildId);
  return buildAnswer(await callOrigin(env, originId, "GET", path, null, ATTEMPT_CALL_TIMEOUT_MS), originId);
}

/** Asks for the end of a build. */
export async function cancelBuild(env: Env, originId: string, buildId: string): Promise<BuildAnswer> {
  const path = `${buildPath(buildId)}/cancel`;
  return buildAnswer(await callOrigin(env, originId, "POST", path, null, ATTEMPT_CALL_TIMEOUT_MS), originId);
}

function buildPath(buildId: string): string {
  return `/v1/builds/${encodeURIComponent(buildId)}`;
}

function buildAnswer(answer: Answer, originId: string): BuildAnswer {
  if (answer.kind === "unreachable") return answer;
  if (answer.kind === "refused") {
    const isUnknown = answer.status === 404 && answer.code === "build.unknown";
    return isUnknown ? { kind: "unknown" } : { kind: "refused", code: answer.code, detail: answer.detail };
  }
  const state = BuildStateSchema.safeParse(answer.body);
  return state.success ? { kind: "state", state: state.data } : unreadable(originId);
}

function attemptPath(id: string, attempt: number): string {
  return `/v1/attempts/${encodeURIComponent(id)}/${attempt}`;
}

function unreadable(originId: string): { kind: "unreachable"; detail: string } {
  return { kind: "unreachable", detail: `origin ${originId} gave an answer that is not of this protocol` };
}

function attemptAnswer(
  answer: Answer,
  originId: string,
): { kind: "state"; state: AttemptState } | { kind: "unknown" } | { kind: "unreachable"; detail: string } {
  if (answer.kind === "unreachable") return answer;
  if (answer.kind === "refused") {
    if (answer.status === 404 && answer.code === "attempt.unknown") return { kind: "unknown" };
    return { kind: "unreachable", detail: `origin ${originId} refused: ${answer.code}` };
  }
  const state = AttemptStateSchema.safeParse(answer.body);
  return state.success ? { kind: "state", state: state.data } : unreadable(originId);
}

function instanceAnswer(answer: Answer, origin: OriginEntry): InstanceAnswer {
  if (answer.kind === "unreachable") return answer;
  if (answer.kind === "refused") return { kind: "refused", code: answer.code, detail: answer.detail };
  const status = InstanceStatusSchema.safeParse(answer.body);
  return status.success ? { kind: "accepted", status: status.data } : unreadable(origin.origin_id);
}

async function callOrigin(
  env: Env,
  originId: string,
  method: string,
  path: string,
  body: unknown,
  timeoutMs: number,
): Promise<Answer> {
  const origin = await originEntry(env, originId);
  if (origin === null) return { kind: "unreachable", detail: `origin ${originId} is not known` };
  return call(env, origin, method, path, body, timeoutMs);
}

/** One signed call. A connection that broke is tried once more: keep-alive races make the first failure say nothing about the origin. */
async function call(
  env: Env,
  origin: OriginEntry,
  method: string,
  path: string,
  body: unknown,
  timeoutMs: number,
): Promise<Answer> {
  const signal = AbortSignal.timeout(timeoutMs);
  const text = body === null ? null : JSON.stringify(body);
  for (let tries = 1; ; tries++) {
    try {
      return await send(env, origin, method, path, text, signal);
    } catch (error) {
      if (signal.aborted || tries === 2) {
        const detail = signal.aborted ? `no answer within ${timeoutMs} ms` : String(error);
        return { kind: "unreachable", detail: `origin ${origin.origin_id}: ${detail}` };
      }
    }
  }
}

async function send(
  env: Env,
  origin: OriginEntry,
  method: string,
  path: string,
  text: string | null,
  signal: AbortSignal,
): Promise<Answer> {
  const url = new URL(origin.url.replace(/\/+$/, "") + path);
  const signed = { method, path: url.pathname + url.search, body: text ?? "" };
  const headers = signRequest(origin.key, signed, Date.now());
  if (text !== null) headers["content-type"] = "application/json";
  // Redirects are not followed: a signature is for one address.
  const init: RequestInit = { method, headers, body: text, redirect: "manual", signal };
  // Origins elsewhere speak https; those of the edge's own host are behind a binding that reaches loopback alone, where the global fetch never goes.
  const local = url.protocol === "http:" ? env.LOCAL_ORIGIN : undefined;
  const response = await (local === undefined ? fetch(url, init) : local.fetch(url, init));
  if (response.ok) return { kind: "ok", body: await response.json() };
  if (response.status < 400 || response.status >= 500) {
    await response.body?.cancel();
    return { kind: "unreachable", detail: `origin ${origin.origin_id} answered ${response.status}` };
  }
  const refusal = RefusalSchema.safeParse(await response.json().catch(() => null));
  return {
    kind: "refused",
    status: response.status,
    code: refusal.success ? refusal.data.code : `http.${response.status}`,
    detail: refusal.success ? refusal.data.detail : `The origin answered ${response.status}.`,
  };
}
