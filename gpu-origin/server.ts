/** The signed HTTP API that the edge calls (schema/origin-protocol.ts). It parses, verifies and answers; the supervisor acts. */
import { createAdaptorServer, type HttpBindings } from "@hono/node-server";
import { type Context, Hono } from "hono";
import type { z } from "zod";
import {
  AttemptCancelSchema,
  AttemptStartSchema,
  BuildStartSchema,
  InstanceBootSchema,
  InstanceDrainSchema,
} from "../schema/origin-protocol.ts";
import { SIGNATURE_WINDOW_MS, verifyRequest } from "../schema/request-signature.ts";
import type { BuildQueue } from "./builds/build-queue.ts";
import type { Log } from "./log.ts";
import type { Supervisor } from "./supervisor.ts";
import type { UploadRelay } from "./upload-relay.ts";

/** Inputs above 256 KiB come by reference, so this is far above what the edge sends. */
const BODY_BYTES_MAX = 20 * 1024 ** 2;
/** All of a body of the edge's. */
const BODY_MS = 60_000;
/** All of a relayed layer, which takes hours on a slow line; the edge ends uploads after a day. */
const UPLOAD_MS = 86_400_000;

type Env = { Bindings: HttpBindings; Variables: { body: string } };

export interface ServerParts {
  supervisor: Supervisor;
  builds: BuildQueue;
  uploads: UploadRelay;
  secretOf: (keyId: string) => string | null;
  incarnation: string;
  log: Log;
}

/** Nonces of the window: a signed request is served once. A nonce lives as long as its time stamp could still be accepted. */
export class NonceMemory {
  #current = new Set<string>();
  #previous = new Set<string>();
  #turnedAt = 0;

  /** True the first time. */
  isNew(nonce: string, now: number): boolean {
    // A time stamp may lie a window in the past or the future, so two windows are remembered, in two generations.
    if (now - this.#turnedAt > 2 * SIGNATURE_WINDOW_MS) {
      this.#previous = now - this.#turnedAt > 4 * SIGNATURE_WINDOW_MS ? new Set() : this.#current;
      this.#current = new Set();
      this.#turnedAt = now;
    }
    if (this.#current.has(nonce) || this.#previous.has(nonce)) return false;
    this.#current.add(nonce);
    return true;
  }
}

export function createApp({ supervisor, builds, uploads, secretOf, incarnation, log }: ServerParts): Hono<Env> {
  const app = new Hono<Env>();
  const nonces = new NonceMemory();

  app.get("/healthz", (c) => c.json({ status: "ok", incarnation }));

  app.use("/v1/*", async (c, next) => {
    if (Number(c.req.header("content-length") ?? 0) > BODY_BYTES_MAX) {
      return problem(c, 413, "request.too_large", "The body is too large.");
    }
    const body = c.req.method === "GET" ? "" : await readBody(c);
    const { pathname, search } = new URL(c.req.url);
    const now = Date.now();
    const verified = verifyRequest(
      { method: c.req.method, path: pathname + search, header: (name) => c.req.header(name), body },
      secretOf,
      now,
    );
    const reason = verified.ok ? (nonces.isNew(verified.nonce, now) ? null : "replayed") : verified.reason;
    if (reason !== null) return problem(c, 401, "origin.unauthenticated", `The signature was refused: ${reason}.`);
    c.set("body", body);
    return next();
  });

  app.put("/v1/attempts/:id/:attempt", (c) => {
    const start = parseBody(c, AttemptStartSchema);
    const key = keyOf(c);
    if (start === null || key === null || start.prediction_id !== key.prediction_id || start.attempt !== key.attempt) {
      return malformed(c);
    }
    const started = supervisor.startAttempt(start);
    if (started.kind === "accepted") return c.json(started.state, 202);
    return problem(c, 409, started.code, started.detail);
  });

  app.get("/v1/attempts/:id/:attempt", (c) => {
    const key = keyOf(c);
    const state = key === null ? null : supervisor.attemptState(key);
    return state === null ? unknownAttempt(c) : c.json(state);
  });

  app.post("/v1/attempts/:id/:attempt/cancel", (c) => {
    const cancel = parseBody(c, AttemptCancelSchema);
    const key = keyOf(c);
    if (cancel === null || key === null) return malformed(c);
    const state = supervisor.cancelAttempt(key, cancel);
    return state === null ? unknownAttempt(c) : c.json(state, 202);
  });

  app.post("/v1/instances", (c) => {
    const boot = parseBody(c, InstanceBootSchema);
    if (boot === null) return malformed(c);
    const booted = supervisor.boot(boot);
    if (booted.kind === "accepted") return c.json(booted.status, 202);
    return problem(c, 409, booted.code, booted.detail);
  });

  app.post("/v1/instances/:id/drain", (c) => {
    const drain = parseBody(c, InstanceDrainSchema);
    if (drain === null) return malformed(c);
    const status = supervisor.drain(c.req.param("id"), drain.reason, drain.grace_ms);
    if (status === null) return problem(c, 404, "instance.unknown", "This origin has no such instance.");
    return c.json(status, 202);
  });

  app.post("/v1/instances/:id/pause", async (c) => {
    const paused = await supervisor.pause(c.req.param("id"));
    if (paused === null) return problem(c, 404, "instance.unknown", "This origin has no such instance.");
    if (paused === "busy") return problem(c, 409, "instance.busy", "The instance is not idle, or cannot be paused.");
    return c.json(paused, 202);
  });

  app.post("/v1/instances/:id/resume", async (c) => {
    const resumed = await supervisor.resume(c.req.param("id"));
    if (resumed === null) return problem(c, 404, "instance.unknown", "This origin has no such instance to resume.");
    return c.json(resumed, 202);
  });

  app.get("/v1/instances", (c) => c.json({ instances: supervisor.statuses() }));

  app.put("/v1/builds/:id", (c) => {
    const start = parseBody(c, BuildStartSchema);
    if (start === null || start.build_id !== c.req.param("id")) return malformed(c);
    const taken = builds.start(start);
    if (taken.kind === "accepted") return c.json(taken.state, 202);
    return problem(c, 409, taken.code, taken.detail);
  });

  app.get("/v1/builds/:id", (c) => {
    const state = builds.state(c.req.param("id"));
    return state === null ? unknownBuild(c) : c.json(state);
  });

  app.post("/v1/builds/:id/cancel", (c) => {
    const state = builds.cancel(c.req.param("id"));
    return state === null ? unknownBuild(c) : c.json(state, 202);
  });

  app.route("/relay", uploads.routes(log));

  app.notFound((c) => problem(c, 404, "route.not_found", "There is nothing at this address."));
  app.onError((error, c) => {
    log.error({ err: error, method: c.req.method, path: c.req.path }, "a call of the edge failed");
    return problem(c, 500, "internal.error", "The origin could not serve this call.");
  });
  return app;
}

/** Listens; rejects with a clear text when the port is taken. */
export async function listen(app: Hono<Env>, port: number): Promise<{ close: () => Promise<void> }> {
  const server = createAdaptorServer({ fetch: app.fetch, serverOptions: { requestTimeout: UPLOAD_MS } });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(error.code === "EADDRINUSE" ? new Error(`Port ${port} (COGWAY_ORIGIN_PORT) is taken.`) : error);
    });
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        if ("closeAllConnections" in server) server.closeAllConnections();
      }),
  };
}

async function readBody(c: Context<Env>): Promise<string> {
  const overdue = setTimeout(() => c.env.incoming.destroy(), BODY_MS);
  return c.req.text().finally(() => clearTimeout(overdue));
}

function keyOf(c: Context<Env>): { prediction_id: string; attempt: number } | null {
  const prediction_id = c.req.param("id") ?? "";
  const attempt = Number(c.req.param("attempt"));
  return /^[a-z2-7]{26}$/.test(prediction_id) && Number.isInteger(attempt) ? { prediction_id, attempt } : null;
}

function parseBody<T>(c: Context<Env>, schema: z.ZodType<T>): T | null {
  try {
    return schema.safeParse(JSON.parse(c.get("body"))).data ?? null;
  } catch {
    return null;
  }
}

function malformed(c: Context<Env>): Response {
  return problem(c, 400, "request.malformed", "The body is not of this protocol.");
}

function unknownAttempt(c: Context<Env>): Response {
  return problem(c, 404, "attempt.unknown", "This origin has no such attempt.");
}

function unknownBuild(c: Context<Env>): Response {
  return problem(c, 404, "build.unknown", "This origin has no such build.");
}

function problem(c: Context<Env>, status: 400 | 401 | 404 | 409 | 413 | 500, code: string, detail: string): Response {
  return c.json({ type: `urn:cogway:problem:${code}`, title: code, status, detail, code }, status, {
    "content-type": "application/problem+json",
  });
}
