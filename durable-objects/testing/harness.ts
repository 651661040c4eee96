/**
 * Real objects over real SQLite, with the objects around them replaced. A `restart` makes a new instance over the same storage, as an eviction
 * or a crash does: memory is lost, what was committed stays. The clock is set far ahead, so deadlines ring only when a test rings them.
 */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, vi } from "vitest";
import { newPredictionId } from "../../schema/ids.ts";
import type { InstanceStatus } from "../../schema/origin-protocol.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import type { AccountApi, AdmitRequest, Settlement } from "../account-contract.ts";
import type { DeploymentApi, EnqueueRequest } from "../deployment-contract.ts";
import type { FleetShardApi } from "../fleet-contract.ts";
import type { PredictionApi, RunSpec } from "../prediction-contract.ts";

/** The test clock starts here: long after any real alarm could ring. */
export const START = Date.UTC(2090, 0, 1);

/** Stops the clock at START. Timers stay real: group commits need them. */
export function stopClock(): void {
  vi.useFakeTimers({ toFake: ["Date"], now: START });
}

/** {@link stopClock} for each test of a file, and real time after it. */
export function stopClockInEachTest(): void {
  beforeEach(stopClock);
  afterEach(() => {
    vi.useRealTimers();
  });
}

export function passTime(ms: number): void {
  vi.setSystemTime(Date.now() + ms);
}

let names = 0;
export function freshName(): string {
  names += 1;
  return `test:${names}:${crypto.randomUUID()}`;
}

type ObjectBinding = "ACCOUNTS" | "BATCHES" | "BUILDS" | "DEPLOYMENTS" | "FLEETS" | "PREDICTIONS";

/** Replaces bindings of Env by objects that answer to any name. */
export function envWith(fakes: {
  predictions?: Partial<PredictionApi>;
  account?: Partial<AccountApi>;
  deployment?: (key: string) => Partial<DeploymentApi>;
  fleet?: Partial<FleetShardApi>;
  runCounters?: Env["RUN_COUNTERS"];
  origin?: (request: Request) => Promise<Response> | Response;
}): Env {
  const named = <T>(get: (name: string) => T) => ({ getByName: get }) as unknown;
  return {
    ...env,
    ...(fakes.predictions && { PREDICTIONS: named(() => fakes.predictions) }),
    ...(fakes.account && { ACCOUNTS: named(() => fakes.account) }),
    ...(fakes.deployment && { DEPLOYMENTS: named(fakes.deployment) }),
    ...(fakes.fleet && { FLEETS: named(() => ({ shards: async () => 1, ...fakes.fleet })) }),
    ...(fakes.runCounters && { RUN_COUNTERS: fakes.runCounters }),
    ...(fakes.origin && {
      LOCAL_ORIGIN: {
        fetch: async (url: RequestInfo, init?: RequestInit) => fakes.origin?.(new Request(url, init)),
      },
    }),
  } as Env;
}

/** Runs `test` beside the real storage of the object `name`. `make` builds an instance over it; call it again to restart. */
export function withObject<T>(
  binding: ObjectBinding,
  name: string,
  test: (state: DurableObjectState) => Promise<T>,
): Promise<T> {
  const namespace = env[binding] as unknown as DurableObjectNamespace;
  return runInDurableObject(namespace.getByName(name), (_instance, state) => test(state));
}

export function aPredictionId(): string {
  return newPredictionId(env.SIGNING_SECRET, 8);
}

export function aSpec(change: Partial<RunSpec> = {}): RunSpec {
  return {
    deployment_key: "version:test",
    release: 0,
    version_id: "a".repeat(64),
    mode: "predict",
    weights: null,
    model: "cogway/test",
    slots: 1,
    memory_bytes: 1_000,
    hardware: "cpu",
    idempotent: false,
    output_is_iterator: false,
    min_instances: 0,
    max_instances: 2,
    idle_ttl_ms: 60_000,
    setup_timeout_ms: 60_000,
    ...change,
  };
}

export function anEnqueue(change: Partial<EnqueueRequest> = {}): EnqueueRequest {
  return {
    prediction_id: aPredictionId(),
    attempt: 1,
    account_id: "alice",
    spec: aSpec(),
    enqueued_at: Date.now(),
    priority: 0,
    ...change,
  };
}

export function aStatus(change: Partial<InstanceStatus> = {}): InstanceStatus {
  return {
    instance_id: "instance1",
    deployment_key: "version:test",
    version_id: "a".repeat(64),
    state: "ready",
    slots: 1,
    slots_busy: 0,
    memory_bytes: 1_000,
    ...change,
  };
}

export function anAdmit(change: Partial<AdmitRequest> = {}): AdmitRequest {
  return {
    kind: "prediction",
    prediction_id: aPredictionId(),
    created_at: Date.now(),
    model: "cogway/test",
    version: "a".repeat(64),
    source: "api",
    idempotency: null,
    limits: { creates_per_minute: 600 },
    ...change,
  };
}

/** What its prediction tells the account at its end, after a second of work. */
export function aSettlement(document: PredictionDocument, change: Partial<Settlement> = {}): Settlement {
  const meter = { hardware: "cpu", predict_time_s: 1, outcome: "succeeded", platform_failure: false } as const;
  return { prediction_id: document.id, document, meter, is_listed: true, ...change };
}

export function aDocument(change: Partial<PredictionDocument> = {}): PredictionDocument {
  return {
    id: aPredictionId(),
    account_id: "alice",
    kind: "prediction",
    model: "cogway/test",
    version: "a".repeat(64),
    destination: null,
    state: "succeeded",
    input: { text: "hello" },
    output: "world",
    error: null,
    error_code: null,
    logs: "",
    metrics: { predict_time: 1 },
    created_at: Date.now(),
    started_at: Date.now(),
    completed_at: Date.now(),
    deadline_at: null,
    expires_at: null,
    data_removed: false,
    source: "api",
    deployment: null,
    webhook: null,
    webhook_events_filter: null,
    stream_kind: "text",
    meter: null,
    ...change,
  };
}
