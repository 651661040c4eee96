/**
 * Where origins are and which keys they sign with, kept in the isolate so that no prediction waits for the FleetObject. At most
 * {@link FRESH_MS} old when traffic flows; between that and {@link USABLE_MS} one caller refreshes it behind its own work.
 *
 * A promise of one request must not be awaited by another (its I/O ends with that request), so concurrent first callers each ask for
 * themselves and only the background refresh is shared.
 */
import { waitUntil } from "cloudflare:workers";
import type { OriginEntry } from "./fleet-contract.ts";
import { shardOf } from "./fleet-shards.ts";
import { fleetShard } from "./stubs.ts";

/** Changes of origins and keys are seen within this time. */
const FRESH_MS = 5_000;
/** After this a caller waits for the new answer. */
const USABLE_MS = 10_000;
/** An unknown origin or key may have joined just now: ask again for it, but at most this often, so forged key ids cost little. */
const MISS_REFRESH_MS = 1_000;
/** A background refresh whose request ended never answers; after this another caller tries. */
const REFRESH_GIVE_UP_MS = 2_000;

interface Directory {
  read_at: number;
  /** when a background refresh began */
  refresh_at: number;
  origins: Map<string, OriginEntry>;
  keys: Map<string, { origin_id: string; secret: string }>;
}

/** By shard; those that this isolate has to do with. */
const directories = new Map<number, Directory>();

async function read(env: Env, shard: number): Promise<Directory> {
  const fleet = fleetShard(env, shard);
  const [origins, keys] = await Promise.all([fleet.origins(), fleet.keys()]);
  const directory = {
    read_at: Date.now(),
    refresh_at: 0,
    origins: new Map(origins.map((origin) => [origin.origin_id, origin])),
    keys: new Map(keys.map((key) => [key.key_id, key])),
  };
  directories.set(shard, directory);
  return directory;
}

async function current(env: Env, shard: number): Promise<Directory> {
  const now = Date.now();
  const directory = directories.get(shard);
  if (directory === undefined) return read(env, shard);
  const age = now - directory.read_at;
  if (age >= USABLE_MS || age < 0) return read(env, shard);
  if (age >= FRESH_MS && now - directory.refresh_at >= REFRESH_GIVE_UP_MS) {
    directory.refresh_at = now;
    // A failed refresh changes nothing: the next caller after USABLE_MS meets the error itself.
    waitUntil(read(env, shard).then(noop, noop));
  }
  return directory;
}

function noop(): void {}

/** Looks `pick` up in the shard that `id` names; a miss is looked up again in a newer directory. */
async function find<T>(env: Env, id: string, pick: (from: Directory) => T | undefined): Promise<T | null> {
  const shard = shardOf(id);
  const known = await current(env, shard);
  const found = pick(known);
  if (found !== undefined) return found;
  if (Date.now() - known.read_at < MISS_REFRESH_MS) return null;
  return pick(await read(env, shard)) ?? null;
}

/** How to call an origin; null when there is none of this id. */
export function originEntry(env: Env, originId: string): Promise<OriginEntry | null> {
  return find(env, originId, (from) => from.origins.get(originId));
}

/** The origin and the secret behind a live key id; null when the key is unknown or revoked. */
export function originSecret(env: Env, keyId: string): Promise<{ origin_id: string; secret: string } | null> {
  return find(env, keyId, (from) => from.keys.get(keyId));
}

/** Drops what this isolate remembers, after a change that it made itself. */
export function forgetOrigins(): void {
  directories.clear();
}
