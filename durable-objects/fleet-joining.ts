/**
 * How origins come to be known: join tokens, each for one origin; the shard where it goes; and the keys that it and the edge sign with. The first shard checks
 * tokens and chooses the shard of each; keys are made in the shard that holds the origin.
 */
import { randomBytes } from "node:crypto";
import { newId, sha256Hex } from "../schema/ids.ts";
import type { Register } from "../schema/origin-protocol.ts";
import { forgetShards, idIn, ORIGINS_PER_SHARD, SHARDS_MAX, shardOf } from "./fleet-shards.ts";
import type { FleetStore, KeyRow } from "./fleet-store.ts";
import { fleetShard } from "./stubs.ts";

/** A key and the one before it: an origin that has not taken the new one yet can still talk. */
const LIVE_KEYS_MAX = 2;
/** A join token that nobody used ends after this. */
const INVITE_MS = 24 * 3_600_000;

export class FleetJoining {
  readonly #env: Env;
  readonly #store: FleetStore;

  constructor(env: Env, store: FleetStore) {
    this.#env = env;
    this.#store = store;
  }

  /** A one-time token makes an origin: its id. The same start of the same process may use it again: its first answer may have been lost. */
  async join(request: Register): Promise<string | null> {
    const tokenSha256 = sha256Hex(request.join_token ?? "");
    if (request.join_token === undefined || !this.#isValidToken(tokenSha256)) return null;
    const usedBy = (): string | null | undefined => {
      const used = this.#store.joinToken(tokenSha256);
      return used === null ? undefined : used.incarnation === request.incarnation ? used.origin_id : null;
    };
    if (usedBy() !== undefined) return usedBy() ?? null;
    const shard = await this.#shardWithRoom();
    if (shard === null) return null;
    // Another call may have used it meanwhile.
    if (usedBy() !== undefined) return usedBy() ?? null;
    const originId = idIn(shard, newId(16));
    this.#store.spendJoinToken(tokenSha256, originId, request.incarnation);
    return originId;
  }

  #isValidToken(tokenSha256: string): boolean {
    const given = this.#env.JOIN_TOKEN_SHA256.toLowerCase().split(",");
    return given.includes(tokenSha256) || this.#store.isInvited(tokenSha256, Date.now());
  }

  /** The first with room, a new one where all are full; null where there are as many as may be. */
  async #shardWithRoom(): Promise<number | null> {
    const count = this.#store.shards();
    for (let shard = 0; shard < count; shard++) {
      if (await (shard === 0 ? this : fleetShard(this.#env, shard)).hasRoom()) return shard;
    }
    if (count >= SHARDS_MAX) return null;
    // Another join may have added one meanwhile.
    this.#store.setShards(Math.max(this.#store.shards(), count + 1));
    forgetShards();
    return count;
  }

  /** Whether this shard takes another origin. */
  hasRoom(): boolean {
    return this.#store.countOrigins() < ORIGINS_PER_SHARD;
  }

  /** A new token for one origin. */
  invite(): { join_token: string; expires_at: number } {
    const join_token = `cwj_${Buffer.from(randomBytes(32)).toString("base64url")}`;
    const expires_at = Date.now() + INVITE_MS;
    this.#store.saveInvite(sha256Hex(join_token), expires_at, Date.now());
    return { join_token, expires_at };
  }

  newKey(originId: string): { key_id: string; secret: string } {
    const key: KeyRow = {
      key_id: idIn(shardOf(originId), newId(16)),
      origin_id: originId,
      secret: Buffer.from(randomBytes(32)).toString("base64"),
      created_at: Date.now(),
    };
    this.#store.insertKey(key);
    const live = this.#store.keys(originId);
    for (const old of live.slice(LIVE_KEYS_MAX)) this.#store.deleteKey(old.key_id);
    return { key_id: key.key_id, secret: key.secret };
  }
}
