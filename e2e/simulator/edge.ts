/**
 * The Worker of a run: each request is an actor of its own, which a kill of the isolate ends. Its use cases are the product's; only HTTP around them is left
 * out. Also what every actor of the edge has as `env`, and the global fetch, through which webhooks leave.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { forgetShards } from "../../durable-objects/fleet-shards.ts";
import { forgetOrigins } from "../../durable-objects/origin-directory.ts";
import { accountStub, fleetStub, predictionStub } from "../../durable-objects/stubs.ts";
import { sha256Hex } from "../../schema/ids.ts";
import type { EventBatch } from "../../schema/origin-protocol.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { AppError } from "../../schema/problems.ts";
import { renderPrediction, viewOf } from "../../schema/render-prediction.ts";
import { deliverEvents } from "../../workers/domain/deliver-events.ts";
import { startPrediction } from "../../workers/domain/start-prediction.ts";
import { type Edge, settingsOf } from "../../workers/env.ts";
import type { Bucket } from "./bucket.ts";
import { catalog } from "./catalog.ts";
import { Broken, type Network, type Reply, type Sender } from "./network.ts";
import { currentSender, isConsequence, type ObjectHost } from "./objects.ts";
import type { EdgeCalls } from "./origin.ts";
import type { OriginHost } from "./origin-host.ts";
import type { Receiver } from "./receiver.ts";
import type { PlannedPrediction, Scenario } from "./scenario.ts";

const wrangler = readFileSync(fileURLToPath(import.meta.resolve("../../wrangler.toml")), "utf8");
const BINDINGS = [...wrangler.matchAll(/^name = "(\w+)"\nclass_name/gm)].map(([, name]) => name ?? "");
const VARS = Object.fromEntries(
  [...wrangler.matchAll(/^([A-Z0-9_]+) = "(.*)"$/gm)].map(([, name, value]) => [name, value]),
);
export const SIGNING_SECRET = "c2ltdWxhdG9yLXNpZ25pbmctc2VjcmV0LTMyLWJ5dGVz";
/** Objects of the pool: few, so that predictions share them. */
const POOL = 2;

class Request implements Sender {
  isAlive = true;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
  leave(send: () => void): void {
    if (this.isAlive) send();
  }
}

export type Created =
  | { kind: "created"; id: string; document: PredictionDocument | null }
  | { kind: "refused"; why: string; retry: boolean };

export class EdgeWorker implements EdgeCalls {
  readonly network: Network;
  readonly #scenario: Scenario;
  readonly #requests = new Map<Request, (reply: Reply) => void>();
  #host: ObjectHost | null = null;
  #origins: OriginHost[] = [];
  readonly #bucket: Bucket;
  readonly #receiver: Receiver;
  readonly #fault: (message: string) => void;
  #joinToken = "";
  #n = 0;

  constructor(
    network: Network,
    scenario: Scenario,
    parts: { bucket: Bucket; receiver: Receiver; fault: (message: string) => void },
  ) {
    this.network = network;
    this.#scenario = scenario;
    this.#bucket = parts.bucket;
    this.#receiver = parts.receiver;
    this.#fault = parts.fault;
    globalThis.fetch = (async (url: string | URL, init: RequestInit = {}) =>
      this.#receiver.call(currentSender(), String(url), init)) as unknown as typeof fetch;
  }

  connect(host: ObjectHost, origins: OriginHost[]): void {
    this.#host = host;
    this.#origins = origins;
  }

  /** What objects and requests have as `env`. */
  envOf(actor: Sender): Env {
    const host = this.#host;
    if (host === null) throw new Error("there is no host yet");
    const sha256 = (): string => sha256Hex(this.#joinToken);
    return {
      ...VARS,
      ...Object.fromEntries(BINDINGS.map((binding) => [binding, host.namespace(actor, binding)])),
      ...{ SIGNING_SECRET, PREDICTION_POOL_SIZE: String(POOL), LOCATION_HINT: "" },
      LANE_LEASES_PER_S: String(this.#scenario.leasesPerLane),
      FILES: this.#bucket.bindingOf(actor),
      DB: catalog,
      LOCAL_ORIGIN: { fetch: (url: URL, init: RequestInit) => this.#callOrigin(actor, url, init) },
      get JOIN_TOKEN_SHA256() {
        return sha256();
      },
    } as unknown as Env;
  }

  async #callOrigin(from: Sender, url: URL, init: RequestInit): Promise<unknown> {
    const origin = this.#origins.find(({ url: own }) => new URL(own).host === url.host);
    if (origin === undefined) throw new Broken(`no origin at ${url}`, false);
    const method = init.method ?? "GET";
    const text = await this.network.exchange({
      ...{ from, label: `${method} ${url}`, text: String(init.body ?? ""), lost: origin.lost },
      signal: init.signal ?? undefined,
      serve: (body, reply) => {
        if (origin.process === null) return reply({ error: new Broken("nobody listens", false) });
        const { process } = origin;
        this.network.timeline.after(0, process, () => {
          reply({ text: JSON.stringify(process.handle(method, url.pathname, body)) });
        });
      },
    });
    const { status, body } = JSON.parse(text) as { status: number; body: unknown };
    return { ok: status < 300, status, json: async () => body, body: null };
  }

  /** kill -9 of the isolate, as far as requests go. */
  kill(): void {
    forgetOrigins();
    forgetShards();
    for (const [request, reply] of this.#requests) {
      request.isAlive = false;
      reply({ error: new Broken("the connection was reset", false) });
    }
    this.#requests.clear();
  }

  async #request<T>(
    from: Sender,
    label: string,
    handle: (edge: Edge) => Promise<T>,
    options: { lost?: number; isPerfect?: boolean; text?: string } = {},
  ): Promise<T> {
    const answer = await this.network.exchange({
      ...{ from, label, text: "", ...options },
      serve: (_text, reply) => {
        const request = new Request(`worker ${++this.#n}`);
        this.#requests.set(request, reply);
        this.network.timeline.after(0, request, () => {
          const env = this.envOf(request);
          const later = (work: Promise<unknown>): void => void work.catch(() => undefined);
          handle({ env, settings: settingsOf(env), later }).then(
            (result) => {
              if (!this.#requests.delete(request)) return;
              reply({ text: JSON.stringify(result ?? null) });
            },
            (error: unknown) => {
              if (!this.#requests.delete(request)) return;
              if (!isConsequence(error)) this.#fault(`${label} threw ${(error as Error).stack}`);
              reply({ error: new Broken(`${label}: ${String(error)}`, false) });
            },
          );
        });
      },
    });
    return JSON.parse(answer) as T;
  }

  // ---- what clients ask

  create(from: Sender, planned: PlannedPrediction, body: string): Promise<Created> {
    return this.#request(from, `create ${body}`, (edge) => this.#create(edge, planned, body));
  }

  async #create(edge: Edge, planned: PlannedPrediction, body: string): Promise<Created> {
    try {
      return await this.#start(edge, planned, body);
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      return { kind: "refused", why: error.code, retry: false };
    }
  }

  async #start(edge: Edge, planned: PlannedPrediction, body: string): Promise<Created> {
    const { env } = edge;
    const spec = this.#scenario.specs[planned.deployment];
    if (spec === undefined) throw new Error("no such deployment");
    const input = { plan: planned.plan, ...(planned.hasSecret ? { password: "hush" } : {}) };
    const version = {
      ...{ id: spec.version_id, owner: "cogway", name: spec.model.split("/")[1] ?? "", openapi_schema: {} },
      ...{ slots: spec.slots, memory_bytes: spec.memory_bytes, hardware: spec.hardware },
    };
    const result = await startPrediction(edge, {
      kind: "prediction",
      account_id: planned.account,
      limits: { creates_per_minute: 600 },
      version: version as unknown as Parameters<typeof startPrediction>[1]["version"],
      terms: this.#scenario.terms[planned.account] ?? {},
      token: null,
      max_cost_micros: planned.max_cost_micros,
      spec: () => spec,
      input: {
        ok: true,
        input,
        shown_input: planned.hasSecret ? { ...input, password: "**********" } : null,
        log_lines: planned.hasSecret ? ["a member was dropped"] : [],
      },
      source: "api",
      idempotency: planned.key === null ? null : { key: planned.key, body_sha256: sha256Hex(body) },
      cancel_after_ms: planned.cancel_after_ms,
      retention_ms: planned.retention_ms,
      webhook: planned.webhook ? `https://hooks.test/${planned.account}` : null,
      webhook_events_filter: planned.filter,
      wait_ms: planned.wait_ms,
    });
    if (result.kind === "started") {
      if (planned.key !== null) {
        const shown = JSON.stringify(renderPrediction(result.document, viewOf(env)));
        await accountStub(env, planned.account).answered(planned.key, { status: 201, headers: [], body: shown });
      }
      return { kind: "created", id: result.document.id, document: result.document };
    }
    if (result.kind === "replay")
      return { kind: "created", id: result.prediction_id, document: result.render?.document ?? null };
    return { kind: "refused", why: result.kind, retry: result.kind === "in_flight" };
  }

  get(from: Sender, id: string, account: string, isPerfect = false): Promise<PredictionDocument | null> {
    return this.#request(from, `get ${id}`, ({ env }) => predictionStub(env, id).get(id, account), { isPerfect });
  }

  cancel(from: Sender, id: string, account: string): Promise<PredictionDocument | null> {
    return this.#request(from, `cancel ${id}`, ({ env }) => predictionStub(env, id).cancel(id, account));
  }

  // ---- what origins ask

  async register(
    from: Sender,
    host: OriginHost,
    request: Parameters<EdgeCalls["register"]>[2],
    originId: string | null,
  ) {
    if (originId === null) this.#joinToken = request.join_token ?? "";
    const answer = await this.#request(
      from,
      `register ${host.url}`,
      async ({ env }) => {
        const registered = await fleetStub(env).register(request, originId, {});
        forgetOrigins();
        return registered;
      },
      { lost: host.lost, isPerfect: originId === null },
    );
    if (!answer.ok) throw new Error(answer.detail);
    return answer.result;
  }

  heartbeat(from: Sender, host: OriginHost, heartbeat: Parameters<EdgeCalls["heartbeat"]>[2]) {
    const originId = host.origin_id ?? "";
    const beat = ({ env }: Edge) => fleetStub(env).heartbeat(originId, heartbeat);
    return this.#request(from, `heartbeat ${host.url}`, beat, { lost: host.lost });
  }

  events(from: Sender, host: OriginHost, body: string) {
    const originId = host.origin_id ?? "";
    return this.#request(
      from,
      `events ${host.url} ${body}`,
      async (edge) => ({ acks: await deliverEvents(edge, JSON.parse(body) as EventBatch, originId) }),
      { lost: host.lost },
    );
  }
}
