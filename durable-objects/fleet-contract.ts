/** What deployments, origins and the operator ask of the fleet. */
import type { Heartbeat, InstanceStatus, Register, RegisterResult } from "../schema/origin-protocol.ts";
import type { PackageRef } from "../schema/packages.ts";
import type { RunSpec } from "./prediction-contract.ts";

export interface PlaceRequest {
  deployment_key: string;
  version_id: string;
  mode: RunSpec["mode"];
  weights: RunSpec["weights"];
  slots: number;
  memory_bytes: number;
  hardware: string;
  setup_timeout_ms: number;
  package?: PackageRef;
  is_trusted?: boolean;
  egress?: boolean;
  gpus?: number;
  /** its queue has waited so long for room that a busy instance of another deployment may be asked to finish and go */
  is_starving?: boolean;
  /** false: only where there is room, without asking another instance to go. Absent is true. */
  evicts?: boolean;
  /** how much its instances are worth keeping while idle: least valuable ones make room first. Absent: as if used once an hour. */
  use?: InstanceUse;
}

/** What an idle instance saves when it is kept: expected use times the cost of starting it anew. */
export interface InstanceUse {
  arrivals_per_hour: number;
  /** from placement to ready */
  cold_start_ms: number;
}

export type PlaceResult =
  /** `resumed`: it was paused and goes on as it was, so it is ready within milliseconds */
  | { kind: "placed"; instance_id: string; origin_id: string; resumed?: boolean }
  /**
   * `no_origin`: none is alive that has this hardware and runs such packages; `no_room`: all full, try again when something changes; `no_version`: no origin that is alive can
   * boot this version (each refused with a code `version.…`)
   */
  | { kind: "refused"; reason: "no_origin" | "no_room" | "no_version"; detail: string };

/** What another object needs to call an origin. Held in isolate memory for 5 s at most (origin-directory.ts). */
export interface OriginEntry {
  origin_id: string;
  url: string;
  key: { key_id: string; secret: string };
  alive: boolean;
}

export interface FleetApi {
  /** With a join token (one of inviteOrigin, or of env.JOIN_TOKEN_SHA256; used once) or for a known origin (the Worker has verified its signature). */
  register(
    request: Register,
    verifiedOriginId: string | null,
    /** micro-dollars a second of its hardware, by SKU, where they are known */
    prices?: Record<string, number>,
  ): Promise<{ ok: true; result: RegisterResult } | { ok: false; code: string; detail: string }>;
  heartbeat(originId: string, heartbeat: Heartbeat): Promise<{ known: boolean; unowned: string[] }>;
  /** Chooses an origin, boots the instance there (evicting an idle one of another deployment where room is short) and reserves its room. */
  place(request: PlaceRequest): Promise<PlaceResult>;
  /** False: it records no such instance (any more). */
  drain(originId: string, instanceId: string, reason: "idle" | "evicted" | "released"): Promise<boolean>;
  rotateKey(originId: string): Promise<{ key_id: string; secret: string } | null>;
  revokeKey(keyId: string): Promise<void>;
  /** The origin that a build goes to: alive, builds sources, and keeps models apart unless this one is trusted; the one that builds least. */
  placeBuild(
    buildId: string,
    isTrusted: boolean,
    /** origins that could not take it just now */
    except: string[],
  ): Promise<{ origin_id: string } | { refused: string }>;
  /** It counts no more for where others go. Idempotent. */
  buildEnded(buildId: string, originId: string): Promise<void>;
  /** For /healthz: how many origins are alive. */
  health(): Promise<{ origins_alive: number }>;
  /**
   * Origins that joined and were not removed, with what runs there, for the operator: `limit` of them behind the one whose id is `after`, shard by shard in the
   * order of their ids.
   */
  listOrigins(after: string | null, limit: number): Promise<OriginListing[]>;
  /** How many origins and instances there are, by state. */
  figures(): Promise<FleetFigures>;
  /**
   * `on`: nothing new goes there, neither instances nor builds; its instances serve on until others replace them where that is needed, then finish what they
   * run and go. Kept over restarts of either side until `on` is false. Null: no such origin.
   */
  drainOrigin(originId: string, on: boolean): Promise<OriginListing | null>;
  /** Forgets an origin and its keys. `in_use`: it is alive and runs instances, so drain it first. */
  removeOrigin(originId: string): Promise<"removed" | "unknown" | "in_use">;
  /** A join token for one more origin, shown this once; it ends when it is used, and at `expires_at` (epoch milliseconds). */
  inviteOrigin(): Promise<{ join_token: string; expires_at: number }>;
}

/** One shard of the fleet: at most 500 origins. Callers use the whole, {@link FleetApi}. */
export interface FleetShardApi extends FleetApi {
  /** Live keys of its origins: key_id -> origin. Two may be live while one is rotated; revoked ones are absent. */
  keys(): Promise<{ origin_id: string; key_id: string; secret: string }[]>;
  origins(): Promise<OriginEntry[]>;
  /** Of the first shard: how many there are. */
  shards(): Promise<number>;
  /** Whether it takes one more origin. */
  hasRoom(): Promise<boolean>;
  /** Takes an origin whose join token the first shard has checked, under the id that it chose. Idempotent, but for a new key each time. */
  adopt(originId: string, request: Register, prices: Record<string, number>): Promise<RegisterResult>;
}

export interface FleetFigures {
  origins: Partial<Record<OriginListing["state"], number>>;
  /** `unknown`: no heartbeat has told of it */
  instances: Partial<Record<InstanceStatus["state"] | "unknown", number>>;
}

/** One origin as its operator sees it. */
export interface OriginListing {
  origin_id: string;
  url: string;
  region: string;
  driver: string;
  /** `draining`: it still runs instances; `drained`: nothing runs there; `lost`: silent for too long */
  state: "ready" | "draining" | "drained" | "lost";
  hardware: Register["hardware"];
  capacity: Register["capacity"];
  /** what its instances take of it */
  used: { instances: number; memory_bytes: number; gpus: number };
  instances: {
    instance_id: string;
    deployment_key: string;
    version_id: string;
    /** as its last heartbeat said; null before the first */
    state: InstanceStatus["state"] | null;
    /** epoch milliseconds; null while it runs something */
    idle_since: number | null;
    memory_bytes: number;
    gpus: number;
  }[];
  /** versions whose image, environment and weights it has, the newest first */
  warm_versions: string[];
  /** epoch milliseconds; null when it was not heard since the fleet's object started */
  last_seen_at: number | null;
}
