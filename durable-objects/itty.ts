/**
 * The only import of itty-durable. Its entry file is CommonJS that requires ES modules, which breaks outside one bundler, so its two parts are
 * imported by path; its types are `any`, so everything leaves here behind an interface of our own.
 *
 * Whoever reaches the fetch of such an actor may call any of its methods, `destroy` included: a client's Request is never forwarded to one.
 * The proxy answers every property, `then` too, so it must never be awaited or returned from async code: callers get plain functions instead.
 */
import { createDurable as createDurableUntyped } from "itty-durable/itty-durable.js";
import { proxyDurable } from "itty-durable/proxy-durable.js";
import type { RunHistory } from "../schema/run-history.ts";

/** What the base class gives to our actors. Every field that a subclass sets is part of its one stored value (2 MB at most). */
interface IttyDurable {
  fetch(request: Request): Promise<Response>;
  /** Stores all fields. */
  persist(): Promise<void>;
}

export const createDurable = createDurableUntyped as unknown as (options: {
  autoPersist: boolean;
  autoReturn: boolean;
}) => new (
  state: DurableObjectState,
  env: Env,
) => IttyDurable;

/** Runs of one deployment since its last report. `seq` rises by one with each report of that deployment. */
export interface RunReport {
  deployment_key: string;
  seq: number;
  runs: number;
  /** how they ran, by version of the model */
  histories?: Record<string, RunHistory>;
}

export interface RunCounterApi {
  /** Adds a report once, however often it is sent. Answers the total. */
  add(report: RunReport): Promise<number>;
  total(): Promise<number>;
  /** When a run of it ended last, to some ten seconds; null: never since this is kept. */
  lastRunAt(): Promise<number | null>;
  /** How a version has run; null: nothing of it ended yet. */
  history(versionId: string): Promise<RunHistory | null>;
  /** The same of all versions of the model that ran last. */
  histories(): Promise<Record<string, RunHistory>>;
}

/** What the proxy has of the actor's methods: answers are JSON. */
interface CounterProxy {
  add(report: RunReport): Promise<{ total: number }>;
  total(): Promise<{ total: number }>;
  lastRun(): Promise<{ at: number | null }>;
  versions(): Promise<{ histories: Record<string, RunHistory> }>;
  version(versionId: string): Promise<{ history: RunHistory | null }>;
}

export function runCounterProxy(namespace: Env["RUN_COUNTERS"], model: string): RunCounterApi {
  // A string of 64 hex digits would be taken for an object id: the prefix keeps names names.
  const get = (): CounterProxy =>
    proxyDurable(namespace, { name: "RUN_COUNTERS", parse: true }).get(`model:${model}`) as unknown as CounterProxy;
  return {
    add: async (report) => (await get().add(report)).total,
    total: async () => (await get().total()).total,
    lastRunAt: async () => (await get().lastRun()).at,
    history: async (versionId) => (await get().version(versionId)).history,
    histories: async () => (await get().versions()).histories,
  };
}
