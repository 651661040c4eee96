/** A real PredictionObject over real SQLite and R2, between a deployment, an account and an origin that are only pretended. */
import { env } from "cloudflare:workers";
import { expect, vi } from "vitest";
import type { AttemptBatch, AttemptEvent, AttemptStart, AttemptState } from "../../schema/origin-protocol.ts";
import { AttemptStartSchema } from "../../schema/origin-protocol.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import type { Settlement } from "../account-contract.ts";
import type { DeploymentApi, EnqueueResult, LeaseKey } from "../deployment-contract.ts";
import { forgetOrigins } from "../origin-directory.ts";
import { PredictionObject } from "../prediction.ts";
import type { CreatePrediction } from "../prediction-contract.ts";
import { aPredictionId, aSpec, envWith, freshName, withObject } from "./harness.ts";

export const ORIGIN_ID = "origin1";
/** What webhooks are signed with: the key, and the one before it. */
export const WEBHOOK_KEYS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];

export function aCreate(change: Partial<CreatePrediction> = {}): CreatePrediction {
  return {
    id: aPredictionId(),
    account_id: "alice",
    kind: "prediction",
    spec: aSpec({ output_is_iterator: true }),
    shown_version: "a".repeat(64),
    destination: null,
    deployment: null,
    batch: null,
    is_listed: true,
    input: { text: "hello" },
    input_ref: null,
    shown_input: null,
    created_at: Date.now(),
    deadline_at: null,
    retention_ms: 3_600_000,
    source: "api",
    webhook: null,
    webhook_events_filter: null,
    stream_kind: "text",
    log_lines: [],
    wait_ms: 0,
    ...change,
  };
}

/** Creates a prediction, and waits until its start came to the origin. Answers its id. */
export async function running(world: World, change: Partial<CreatePrediction> = {}): Promise<string> {
  const { id } = (await world.object.create(aCreate(change))).document;
  await vi.waitFor(() => expect(world.started.some((start) => start.prediction_id === id)).toBe(true));
  return id;
}

type EventBody = AttemptEvent extends infer E ? (E extends AttemptEvent ? Omit<E, "i" | "t_ms"> : never) : never;

/** Events with their numbers: `from` is the first index. */
export function events(from: number, ...bodies: EventBody[]): AttemptEvent[] {
  return bodies.map((body, n) => ({ ...body, i: from + n, t_ms: from + n }) as AttemptEvent);
}

export const started: EventBody = { type: "started" };
export const output = (value: unknown): EventBody => ({ type: "output", mode: "append", value });
export const line = (data: string): EventBody => ({ type: "log", source: "stdout", data });
export const succeeded: EventBody = { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.001 };

export interface World {
  object: PredictionObject;
  state: DurableObjectState;
  /** drops the object's memory */
  restart(): void;
  /** Resolves when nothing that calls left behind is on its way any more. */
  idle(): Promise<void>;
  enqueue: (key: LeaseKey) => EnqueueResult;
  released: Parameters<DeploymentApi["release"]>[0];
  settled: Settlement[];
  /** what the account was asked to hold */
  holds: { id: string; reserve_micros: number }[];
  /** whether it has room for it */
  hasRoom: (reserve_micros: number) => boolean | Promise<boolean>;
  removed: PredictionDocument[];
  started: AttemptStart[];
  cancels: string[];
  /** what the origin answers about an attempt; null: it does not know it */
  attemptState: AttemptState["state"] | null;
  startAnswer: () => Response;
  originIsAlive: boolean;
  /** The owners of effects are away. */
  ownersAreAway: boolean;
  send(id: string, attempt: number, sent: AttemptEvent[]): ReturnType<PredictionObject["applyEvents"]>;
  leased(key: LeaseKey): EnqueueResult;
}

export function withPredictions(test: (world: World) => Promise<void>): Promise<void> {
  return withObject("PREDICTIONS", freshName(), async (state) => {
    forgetOrigins();
    const key = { key_id: "k1", secret: "c2VjcmV0" };
    const away = (): void => {
      if (world.ownersAreAway) throw new Error("away");
    };
    const fakeEnv = envWith({
      deployment: () => ({
        enqueue: async (request) => world.enqueue(request),
        release: async (releases) => {
          away();
          world.released.push(...releases);
        },
        waitingFor: async () => ({ reason: "boot", queue_position: 1, elapsed_ms: 5, estimate_ms: null }),
      }),
      account: {
        settle: async (settlements) => {
          away();
          world.settled.push(...settlements);
        },
        hold: async (requests) => {
          away();
          world.holds.push(...requests);
          const refusal = {
            kind: "over_budget",
            code: "billing.budget_exceeded",
            detail: "",
            resets_at: null,
          } as const;
          return Promise.all(
            requests.map(async ({ reserve_micros }) => ((await world.hasRoom(reserve_micros)) ? null : refusal)),
          );
        },
        removeData: async (documents) => {
          world.removed.push(...documents);
        },
        webhookKeys: async () => {
          away();
          return { keys: WEBHOOK_KEYS };
        },
      },
      fleet: {
        origins: async () => [{ origin_id: ORIGIN_ID, url: "http://origin.test", key, alive: world.originIsAlive }],
        keys: async () => [],
      },
      origin: async (request) => {
        const [, , , id = "", attempt = "0", verb] = new URL(request.url).pathname.split("/");
        if (request.method === "PUT") {
          world.started.push(AttemptStartSchema.parse(await request.json()));
          return world.startAnswer();
        }
        if (verb === "cancel") world.cancels.push(`${id}/${attempt}`);
        if (world.attemptState === null) return Response.json({ code: "attempt.unknown", detail: "" }, { status: 404 });
        return Response.json(stateOf(id, Number(attempt), world.attemptState));
      },
    });
    const later: Promise<unknown>[] = [];
    state.waitUntil = (work) => {
      later.push(work);
    };
    const world: World = {
      object: new PredictionObject(state as never, fakeEnv),
      state,
      restart() {
        world.object = new PredictionObject(state as never, fakeEnv);
      },
      async idle() {
        while (later.length > 0) await Promise.allSettled(later.splice(0));
      },
      enqueue: (request) => world.leased(request),
      released: [],
      settled: [],
      holds: [],
      hasRoom: () => true,
      removed: [],
      started: [],
      cancels: [],
      attemptState: "running",
      startAnswer: () => Response.json(stateOf("", 1, "running"), { status: 202 }),
      originIsAlive: true,
      ownersAreAway: false,
      send(id, attempt, sent) {
        const batch: AttemptBatch = { prediction_id: id, attempt, events: sent };
        return world.object.applyEvents([batch], ORIGIN_ID);
      },
      leased: ({ prediction_id, attempt }) => ({
        kind: "leased",
        lease: { prediction_id, attempt, instance_id: "instance1", origin_id: ORIGIN_ID, leased_at: Date.now() },
      }),
    };
    await test(world);
  });
}

function stateOf(prediction_id: string, attempt: number, state: AttemptState["state"]): AttemptState {
  return { prediction_id, attempt, state, started: true, last_event_i: 0 };
}

/** Reads a stream to its end: events in order. */
export async function readStream(response: Response): Promise<{ event: string; id: string; data: string }[]> {
  return parseStream(await response.text());
}

export function parseStream(text: string): { event: string; id: string; data: string }[] {
  return text
    .split("\n\n")
    .filter((block) => block !== "" && !block.startsWith(":"))
    .map((block) => {
      const lines = block.split("\n");
      const field = (name: string): string[] =>
        lines.filter((each) => each.startsWith(`${name}: `)).map((each) => each.slice(name.length + 2));
      return { event: field("event").join(""), id: field("id").join(""), data: field("data").join("\n") };
    });
}

/** A reader's request. */
export function streamRequest(id: string, lastEventId?: string, signal?: AbortSignal): Request {
  return new Request(`https://prediction/stream/${id}`, {
    headers: lastEventId === undefined ? {} : { "last-event-id": lastEventId },
    ...(signal === undefined ? {} : { signal }),
  });
}

export const files = (): R2Bucket => env.FILES;
