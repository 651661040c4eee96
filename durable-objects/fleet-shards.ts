/**
 * The fleet as its callers see it: one object, whatever the number of its shards. Ids of origins and of their keys say which shard holds them, so most calls
 * go straight there; a placement asks the shards one after another, from one that its deployment's key chooses, so that no shard is asked by all.
 */
import { sha256Hex } from "../schema/ids.ts";
import type { FleetApi, FleetShardApi, OriginListing, PlaceResult } from "./fleet-contract.ts";

/** Origins of one shard. */
export const ORIGINS_PER_SHARD = 500;
/** 32,000 origins; the next one is refused. */
export const SHARDS_MAX = 64;
/** How long an isolate remembers how many shards there are. */
const COUNT_FRESH_MS = 5_000;

let known: { count: number; read_at: number } | null = null;

/** For tests, and after a change that this isolate made itself. */
export function forgetShards(): void {
  known = null;
}

/** The shard of an origin or a key. Ids of the first one say nothing. */
export function shardOf(id: string): number {
  const shard = /^(\d{1,3})-/.exec(id)?.[1];
  return shard === undefined ? 0 : Math.min(Number(shard), SHARDS_MAX - 1);
}

/** An id that is made in a shard. */
export function idIn(shard: number, id: string): string {
  return shard === 0 ? id : `${shard}-${id}`;
}

export function shardedFleet(shard: (n: number) => FleetShardApi): FleetApi {
  const count = async (): Promise<number> => {
    const now = Date.now();
    if (known === null || now - known.read_at >= COUNT_FRESH_MS || now < known.read_at) {
      known = { count: await shard(0).shards(), read_at: now };
    }
    return known.count;
  };
  const all = async (): Promise<FleetShardApi[]> => Array.from({ length: await count() }, (_, n) => shard(n));
  /** All of them, from one that the key chooses. */
  const from = async (key: string): Promise<FleetShardApi[]> => {
    const shards = await all();
    const first = Number.parseInt(sha256Hex(key).slice(0, 8), 16) % shards.length;
    return [...shards.slice(first), ...shards.slice(0, first)];
  };

  return {
    register: (request, originId, prices) =>
      shard(originId === null ? 0 : shardOf(originId)).register(request, originId, prices),
    heartbeat: (originId, heartbeat) => shard(shardOf(originId)).heartbeat(originId, heartbeat),
    async place(request) {
      const shards = await from(request.deployment_key);
      let refused: PlaceResult | null = null;
      // Room that is free anywhere comes before room that somebody must give up.
      for (const evicts of shards.length === 1 ? [true] : [false, true]) {
        for (const each of shards) {
          const result = await each.place({ ...request, evicts });
          if (result.kind === "placed") return result;
          refused = hopefuller(refused, result);
        }
      }
      return refused ?? { kind: "refused", reason: "no_origin", detail: "No origin is connected." };
    },
    drain: (originId, instanceId, reason) => shard(shardOf(originId)).drain(originId, instanceId, reason),
    rotateKey: (originId) => shard(shardOf(originId)).rotateKey(originId),
    revokeKey: (keyId) => shard(shardOf(keyId)).revokeKey(keyId),
    async placeBuild(buildId, isTrusted, except) {
      let refused: { refused: string } | null = null;
      for (const each of await from(buildId)) {
        const place = await each.placeBuild(buildId, isTrusted, except);
        if ("origin_id" in place) return place;
        refused ??= place;
      }
      return refused ?? { refused: "No origin is connected." };
    },
    buildEnded: (buildId, originId) => shard(shardOf(originId)).buildEnded(buildId, originId),
    async health() {
      const answers = await Promise.all((await all()).map((each) => each.health()));
      return { origins_alive: answers.reduce((sum, { origins_alive }) => sum + origins_alive, 0) };
    },
    async listOrigins(after, limit) {
      const origins: OriginListing[] = [];
      const shards = await count();
      let from = after;
      for (let n = after === null ? 0 : shardOf(after); n < shards && origins.length < limit; n++) {
        origins.push(...(await shard(n).listOrigins(from, limit - origins.length)));
        from = null;
      }
      return origins;
    },
    async figures() {
      const answers = await Promise.all((await all()).map((each) => each.figures()));
      return {
        origins: sums(answers.map((each) => each.origins)),
        instances: sums(answers.map((each) => each.instances)),
      };
    },
    drainOrigin: (originId, on) => shard(shardOf(originId)).drainOrigin(originId, on),
    removeOrigin: (originId) => shard(shardOf(originId)).removeOrigin(originId),
    inviteOrigin: () => shard(0).inviteOrigin(),
  };
}

/** Full means that waiting may help; then that no origin has the version; then that nothing of the kind is connected. */
function hopefuller(a: PlaceResult | null, b: PlaceResult): PlaceResult {
  const rank = (result: PlaceResult | null): number =>
    result?.kind === "refused" ? ["no_room", "no_version", "no_origin"].indexOf(result.reason) : 3;
  return rank(b) < rank(a) ? b : (a ?? b);
}

function sums<K extends string>(counts: Partial<Record<K, number>>[]): Partial<Record<K, number>> {
  const total: Partial<Record<K, number>> = {};
  for (const each of counts) {
    for (const key of Object.keys(each) as K[]) total[key] = (total[key] ?? 0) + (each[key] ?? 0);
  }
  return total;
}
