/** The whole edge inside workerd, called as clients and origins call it: accounts with tokens, and an origin that does what a test tells it. */
import { env, exports } from "cloudflare:workers";
import { vi } from "vitest";
import { newId } from "../../schema/ids.ts";
import {
  type AttemptAck,
  type AttemptEvent,
  type AttemptStart,
  type BuildAck,
  type BuildStart,
  type InstanceBoot,
  type ModelAnnounce,
  ORIGIN_PROTOCOL_VERSION,
  type Register,
} from "../../schema/origin-protocol.ts";
import type { BuildEvent } from "../../schema/packages.ts";
import type { ProblemDocument } from "../../schema/problems.ts";
import { bodyDigest, type SigningKey, signRequest } from "../../schema/request-signature.ts";
import type { StoredLimits } from "../../schema/tables/accounts.ts";
import { operatorSeed } from "../../schema/tables/operator-seed.ts";
import { hashToken, newToken, type Scope } from "../../schema/tokens.ts";
import { insertAccount } from "../storage/accounts.ts";
import { expectDocumented } from "./documented.ts";

export const PUBLIC_URL = env.PUBLIC_URL;
const ORIGIN_URL = "http://127.0.0.1:18788";
/** Longer than anything here takes. */
const WAIT_MS = 10_000;

export type WirePrediction = Record<string, unknown> & {
  id: string;
  status: string;
  output: unknown;
  logs: string;
  input: Record<string, unknown>;
  urls: Record<string, string>;
};

/** One request to the edge. `body` other than text is sent as JSON, `bytes` as they are. Fails where the OpenAPI document does not describe the answer. */
export async function call(
  method: string,
  path: string,
  options: {
    token?: string;
    body?: unknown;
    bytes?: Uint8Array | ReadableStream<Uint8Array>;
    headers?: Record<string, string>;
  } = {},
): Promise<Response> {
  const { token, body, bytes } = options;
  const answer = await exports.default.fetch(
    new Request(new URL(path, PUBLIC_URL), {
      method,
      redirect: "manual",
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...options.headers,
      },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      ...(bytes === undefined ? {} : { body: bytes }),
    }),
  );
  await expectDocumented(method, path, answer);
  return answer;
}

/** The problem of an answer, which must be one. */
export async function problemOf(answer: Response): Promise<ProblemDocument> {
  const text = await answer.text();
  if (answer.headers.get("content-type") !== "application/problem+json")
    throw new Error(`no problem: ${answer.status} ${text}`);
  return JSON.parse(text) as ProblemDocument;
}

export async function predictionOf(answer: Response): Promise<WirePrediction> {
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** The operator's account; gives its token. */
export async function theOperator(): Promise<string> {
  const token = newToken();
  await env.DB.batch(operatorSeed(token, Date.now()).map(({ sql, params }) => env.DB.prepare(sql).bind(...params)));
  return token;
}

export async function anAccount(limits: StoredLimits = {}): Promise<{ id: string; username: string; token: string }> {
  const username = `u${newId(10)}`;
  const made = await insertAccount(env.DB, { type: "user", username, name: "Test", limits });
  if (made === null) throw new Error("the name is taken");
  return { id: made.account.id, username, token: made.token };
}

/** Another token of an account. */
export async function aToken(accountId: string, scopes: Scope[], expires_at: number | null = null): Promise<string> {
  const token = newToken();
  await env.DB.prepare(
    "INSERT INTO tokens (hash, account_id, scopes, last_four, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
  )
    .bind(hashToken(token), accountId, JSON.stringify(scopes), token.slice(-4), Date.now(), expires_at)
    .run();
  return token;
}

let versions = 0;
/** An announced model that is ready, with a version of its own. */
export function anAnnounce(
  change: Partial<ModelAnnounce> = {},
  output: Record<string, unknown> = { type: "string" },
): ModelAnnounce {
  versions += 1;
  return {
    state: "ready",
    visibility: "public",
    title: "Echo",
    readme: "# Echo",
    version: {
      id: versions.toString(16).padStart(64, "0"),
      cog_version: "0.17.0",
      openapi_schema: openapiSchema(output),
      // tests leave many predictions running
      slots: 500,
      memory_bytes: 1_000_000,
      hardware: "cpu",
      idempotent: false,
    },
    ...change,
  };
}

function openapiSchema(output: Record<string, unknown>): Record<string, unknown> {
  const properties = {
    text: { type: "string", "x-order": 0 },
    count: { type: "integer", default: 3, minimum: 1, maximum: 10, "x-order": 1 },
    color: { allOf: [{ $ref: "#/components/schemas/color" }], default: "red", "x-order": 2 },
    image: { type: "string", format: "uri", nullable: true, "x-order": 3 },
    key: { type: "string", "x-cog-secret": true, format: "password", "x-order": 4 },
  };
  return {
    openapi: "3.0.2",
    components: {
      schemas: {
        color: { type: "string", enum: ["red", "blue"] },
        Input: { type: "object", required: ["text"], properties },
        Output: output,
      },
    },
  };
}

/** A model with a trainer. `inputs` are further ones of its predictor. */
export function aTrainer(inputs: Record<string, unknown> = {}): ModelAnnounce {
  const announced = anAnnounce();
  if (announced.version === undefined) throw new Error("an announce without a version");
  const schemas = {
    Input: { type: "object", required: ["text"], properties: { text: { type: "string" }, ...inputs } },
    Output: { type: "string" },
    TrainingInput: {
      type: "object",
      required: ["train_data"],
      properties: {
        train_data: { type: "string", format: "uri" },
        steps: { type: "integer", default: 10, minimum: 1 },
        key: { type: "string", "x-cog-secret": true },
      },
    },
    TrainingOutput: { type: "object", properties: { weights: { type: "string", format: "uri" } } },
  };
  const openapi_schema = { openapi: "3.0.2", paths: { "/trainings": {}, "/predictions": {} }, components: { schemas } };
  return { ...announced, version: { ...announced.version, openapi_schema, train_memory_bytes: 7_000_000 } };
}

/** A private model of an account that waits for its first version. */
export async function aDestination(owner: { username: string; token: string }): Promise<string> {
  const name = `m${newId(10)}`;
  const body = { owner: owner.username, name, visibility: "private", hardware: "cpu" };
  const answer = await call("POST", "/v1/models", { token: owner.token, body });
  if (!answer.ok) throw new Error(await answer.text());
  return `${owner.username}/${name}`;
}

/** An origin that joined over HTTP. Its calls go to the real edge; what the edge asks of it is recorded, and answered as a good origin does. */
export class FakeOrigin {
  readonly boots: InstanceBoot[] = [];
  readonly attempts: AttemptStart[] = [];
  readonly cancels: string[] = [];
  readonly builds: BuildStart[] = [];
  /** ids of builds that were canceled here */
  readonly canceledBuilds: string[] = [];
  /** what was reported as ready and not as stopped since, by id */
  readonly #ready = new Map<string, InstanceBoot>();
  readonly key: SigningKey;

  private constructor(key: SigningKey) {
    this.key = key;
  }

  static async join(change: Partial<Register> = {}): Promise<FakeOrigin> {
    const answer = await call("POST", "/origin/v1/register", {
      body: aRegister({ join_token: "join-token-of-tests", ...change }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const { key } = await answer.json<{ key: SigningKey }>();
    const origin = new FakeOrigin(key);
    const outside = globalThis.fetch;
    vi.stubGlobal("fetch", async (input: RequestInfo | URL, init?: RequestInit) => {
      const request = new Request(input, init);
      return request.url.startsWith(ORIGIN_URL) ? origin.#answer(request) : outside(request);
    });
    return origin;
  }

  async #answer(request: Request): Promise<Response> {
    const path = new URL(request.url).pathname;
    if (request.method === "POST" && path === "/v1/instances") {
      const boot = await request.json<InstanceBoot>();
      this.boots.push(boot);
      return Response.json(statusOf(boot, "boot"), { status: 202 });
    }
    const build = /^\/v1\/builds\/([a-z2-7]{26})(\/cancel)?$/.exec(path);
    if (build !== null) return this.#answerBuild(request, build[1] ?? "", build[2] !== undefined);
    const attempt = /^\/v1\/attempts\/([a-z2-7]{26})\/(\d+)(\/cancel)?$/.exec(path);
    if (attempt === null) return Response.json({ code: "route.not_found", detail: path }, { status: 404 });
    const [, prediction_id = "", number = "", cancel] = attempt;
    if (cancel !== undefined) this.cancels.push(prediction_id);
    else if (request.method === "PUT") this.attempts.push(await request.json<AttemptStart>());
    const state = { prediction_id, attempt: Number(number), state: "running", started: true, last_event_i: -1 };
    return Response.json(state, { status: 202 });
  }

  async #answerBuild(request: Request, build_id: string, isCancel: boolean): Promise<Response> {
    if (isCancel) this.canceledBuilds.push(build_id);
    else if (request.method === "PUT") this.builds.push(await request.json<BuildStart>());
    const isKnown = this.builds.some((start) => start.build_id === build_id);
    if (!isKnown) return Response.json({ code: "build.unknown", detail: "no such build" }, { status: 404 });
    return Response.json({ build_id, state: "running", last_event_i: -1 }, { status: 202 });
  }

  /** The build that the edge began here. */
  async buildOf(buildId: string): Promise<BuildStart> {
    return vi.waitFor(
      () => {
        const start = this.builds.find(({ build_id }) => build_id === buildId);
        if (start === undefined) throw new Error("no build yet");
        return start;
      },
      { timeout: WAIT_MS, interval: 20 },
    );
  }

  /** Sends events of a build; `i` and time are filled in from the first index on. */
  async buildEvents(buildId: string, first: number, events: BuildEventBody[]): Promise<BuildAck> {
    const numbered = events.map((event, k) => ({ ...event, i: first + k, t_ms: first + k }));
    const body = JSON.stringify({ protocol: ORIGIN_PROTOCOL_VERSION, events: numbered });
    const answer = await this.send("POST", `/origin/v1/builds/${buildId}/events`, body);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }

  /** A signed call. */
  async send(
    method: string,
    path: string,
    body?: string | Uint8Array,
    headers: Record<string, string> = { "content-type": "application/json" },
    body_sha256 = bodyDigest(body ?? ""),
  ): Promise<Response> {
    const signed = signRequest(this.key, { method, path, body_sha256 }, Date.now());
    const answer = await exports.default.fetch(
      new Request(new URL(path, PUBLIC_URL), {
        method,
        headers: { ...headers, ...signed },
        ...(body === undefined ? {} : { body }),
      }),
    );
    await expectDocumented(method, path, answer);
    return answer;
  }

  /** Answers the id of the announced version: empty where it has none yet. */
  async announce(name: string, announced: ModelAnnounce): Promise<string> {
    const answer = await this.send("PUT", `/origin/v1/models/${name}`, JSON.stringify(announced));
    if (!answer.ok) throw new Error(await answer.text());
    return announced.version?.id ?? "";
  }

  /** A prediction of this origin whose model has started. Answers its id. */
  async aRunning(token: string, version: string): Promise<string> {
    const body = { version, input: { text: "x" } };
    const { id } = await predictionOf(await call("POST", "/v1/predictions", { token, body }));
    await this.attemptOf(id);
    await this.events(id, 0, [{ type: "started" }]);
    return id;
  }

  /** Brings up whatever the edge asked to boot, until the attempt of this prediction has come. */
  async attemptOf(predictionId: string): Promise<AttemptStart> {
    return vi.waitFor(
      async () => {
        await this.bringUp();
        const attempt = this.attempts.find((start) => start.prediction_id === predictionId);
        if (attempt === undefined) throw new Error("no attempt yet");
        return attempt;
      },
      { timeout: WAIT_MS, interval: 20 },
    );
  }

  /** Reports whatever the edge asked to boot as ready. */
  async bringUp(): Promise<void> {
    await this.report(this.boots.splice(0), "ready");
  }

  /** Reports the state of what the edge asked to boot. */
  async report(boots: InstanceBoot[], state: "ready" | "stopped"): Promise<void> {
    for (const boot of boots) {
      if (state === "ready") this.#ready.set(boot.instance_id, boot);
      else this.#ready.delete(boot.instance_id);
    }
    const statuses = boots.map((boot) => statusOf(boot, state));
    if (statuses.length > 0) await this.#post([], statuses);
  }

  /** Says that it lives, with what is ready: an origin that does not for 20 s is lost. */
  async heartbeat(): Promise<void> {
    const instances = [...this.#ready.values()].map((boot) => statusOf(boot, "ready"));
    const answer = await this.send("POST", "/origin/v1/heartbeat", JSON.stringify({ incarnation: "first", instances }));
    if (!answer.ok) throw new Error(await answer.text());
  }

  /** Reports one of them as a test says. */
  async reportAs(boot: InstanceBoot, change: Record<string, unknown>): Promise<void> {
    await this.#post([], [{ ...statusOf(boot, "boot"), ...change }]);
  }

  /** Sends events of an attempt; `i` and time are filled in from the first index on. */
  async events(predictionId: string, first: number, events: EventBody[]): Promise<AttemptAck[]> {
    const numbered = events.map((event, k) => ({ ...event, i: first + k, t_ms: first + k }) as AttemptEvent);
    const { acks } = await this.#post([{ prediction_id: predictionId, attempt: 1, events: numbered }], []);
    return acks;
  }

  /** Runs a prediction to its good end. */
  async succeed(predictionId: string, output: unknown): Promise<void> {
    await this.attemptOf(predictionId);
    await this.events(predictionId, 0, [
      { type: "started" },
      { type: "output", mode: "set", value: output },
      { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 },
    ]);
  }

  async #post(attempts: unknown[], instances: unknown[]): Promise<{ acks: AttemptAck[] }> {
    const batch = { protocol: ORIGIN_PROTOCOL_VERSION, attempts, instances };
    const answer = await this.send("POST", "/origin/v1/events", JSON.stringify(batch));
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }
}

export type BuildEventBody = BuildEvent extends infer E
  ? E extends BuildEvent
    ? Omit<E, "i" | "t_ms">
    : never
  : never;
type EventBody = AttemptEvent extends infer E ? (E extends AttemptEvent ? Omit<E, "i" | "t_ms"> : never) : never;

export function aRegister(change: Partial<Register> = {}): Register {
  return {
    protocol: ORIGIN_PROTOCOL_VERSION,
    url: ORIGIN_URL,
    incarnation: "first",
    region: "local",
    driver: "fake",
    hardware: [{ sku: "cpu", name: "CPU", cpus: 2, memory_bytes: 8_000_000_000, gpus: 0 }],
    capacity: { instances: 8, memory_bytes: 8_000_000_000 },
    instances: [],
    ...change,
  };
}

function statusOf(boot: InstanceBoot, state: "boot" | "ready" | "stopped") {
  const { instance_id, deployment_key, version_id, slots, memory_bytes } = boot;
  return { instance_id, deployment_key, version_id, state, slots, slots_busy: 0, memory_bytes };
}
