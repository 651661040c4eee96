/** The Worker's variables, parsed once, and what middleware leaves for routes. */
import type { Context } from "hono";
import { parseDuration } from "../schema/durations.ts";
import type { Budget } from "../schema/ledger.ts";
import type { StoredTerms } from "../schema/tables/accounts.ts";
import type { Scope } from "../schema/tokens.ts";
import type { TraceContext } from "../schema/tracing.ts";
import type { RegistryAccess } from "./domain/registry-token.ts";

export interface Settings {
  /** without a slash at its end; the only source of absolute URLs */
  publicUrl: string;
  signingSecret: string;
  /** milliseconds that data is kept after a prediction's end */
  retentionMs: number;
  predictionPoolSize: number;
  loopTurn: boolean;
  /** CIDR ranges of private addresses that webhooks may use */
  allowPrivateCidrs: string[];
  /** an origin that takes uploads of the registry and passes them on by parts, without a slash at its end; null: uploads come here */
  uploadRelayUrl: string | null;
  /** micro-dollars that each new account gets once, unless its terms say otherwise */
  freeCreditsMicros: number;
}

/** The account behind a request's token. */
export interface Caller {
  account_id: string;
  type: "user" | "organization";
  username: string;
  name: string;
  scopes: Scope[];
  /** owner/name of the only models that the token may see and run; null is no such bound */
  allowed_models: string[] | null;
  /** organizations that the person is in: they see and run their private models */
  organizations: { username: string; role: "owner" | "admin" | "member" }[];
  creates_per_minute: number;
  /** of everything that creates no prediction, training or batch */
  reads_per_minute: number;
  /** nothing of its predictions is kept beyond their delivery */
  zero_retention: boolean;
  /** what is agreed about money */
  terms: StoredTerms;
  token: {
    hash: string;
    expires_at: number | null;
    /** account of the person who made it; null for the first token of an account */
    created_by: string | null;
    /** its own cap on what is spent with it */
    budget: Budget | null;
  };
}

export interface AppEnv {
  Bindings: Env;
  Variables: {
    requestId: string;
    /** of this request's span, in the caller's trace or one of its own */
    trace: TraceContext;
    /** the prediction or training that a create made, for the log */
    predictionId?: string;
    /** set by the authenticate middleware; routes read it through `callerOf` */
    caller?: Caller;
    /** what the registry's token of this request grants; behind the registry's guard */
    registryAccess?: RegistryAccess[];
    /** the request comes with an upload's own token, through an origin that relays it; behind the registry's guard */
    isUploadRelayed?: boolean;
    /** the account whose audit log gets this request's entry, where that is not the caller's own */
    auditAccount?: string;
    /** of a create: gives its place among those that are being admitted back */
    admitted?: () => void;
    /** identity of a verified origin, set by the origin middleware */
    originId?: string;
  };
}

/** What use cases need of a request: no HTTP. */
export interface Edge {
  env: Env;
  settings: Settings;
  /** keeps work alive behind the answer */
  later: (work: Promise<unknown>) => void;
  /** of the request's span; absent where no request is behind it */
  trace?: TraceContext;
  /** to be called once a create is admitted, when all that is left is to wait; absent where no request is behind it */
  admitted?: () => void;
}

export function edgeOf(c: Context<AppEnv>): Edge {
  const admitted = c.get("admitted");
  return {
    env: c.env,
    settings: settingsOf(c.env),
    later: (work) => c.executionCtx.waitUntil(work),
    trace: c.get("trace"),
    ...(admitted === undefined ? {} : { admitted }),
  };
}

const parsed = new WeakMap<Env, Settings>();

/** The settings of this deployment. Throws a plain error for variables that cannot be right: nothing is served with those. */
export function settingsOf(env: Env): Settings {
  const known = parsed.get(env);
  if (known !== undefined) return known;
  if (!env.SIGNING_SECRET) throw new Error("SIGNING_SECRET is not set: see wrangler.toml");
  const retentionMs = parseDuration(env.RETENTION);
  if (retentionMs === null) throw new Error(`RETENTION is no duration: ${env.RETENTION}`);
  const relay = env.UPLOAD_RELAY_URL.replace(/\/+$/, "");
  if (relay !== "" && !/^https?:$/.test(URL.parse(relay)?.protocol ?? "")) {
    throw new Error(`UPLOAD_RELAY_URL is no http or https URL: ${relay}`);
  }
  if (!/^\d{1,15}$/.test(env.FREE_CREDITS_MICROS)) {
    throw new Error(`FREE_CREDITS_MICROS is no whole number of micro-dollars: ${env.FREE_CREDITS_MICROS}`);
  }
  const settings: Settings = {
    publicUrl: env.PUBLIC_URL.replace(/\/+$/, ""),
    signingSecret: env.SIGNING_SECRET,
    retentionMs,
    predictionPoolSize: Number(env.PREDICTION_POOL_SIZE),
    loopTurn: env.LOOP_TURN === "1",
    allowPrivateCidrs: env.ALLOW_PRIVATE_URLS.split(",").filter((cidr) => cidr !== ""),
    uploadRelayUrl: relay === "" ? null : relay,
    freeCreditsMicros: Number(env.FREE_CREDITS_MICROS),
  };
  parsed.set(env, settings);
  return settings;
}
