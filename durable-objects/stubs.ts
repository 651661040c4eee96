/**
 * Typed getters of all objects: the only place that turns a name into an object. The generated RPC types cannot carry `unknown` members
 * (they map them to `never`), so each stub is seen through its interface in *-contract.ts, which its class implements.
 */
import { predictionObjectName } from "../schema/ids.ts";
import type { AccountApi } from "./account-contract.ts";
import type { AuditApi } from "./audit-contract.ts";
import type { BatchApi } from "./batch-contract.ts";
import type { BuildApi } from "./build-contract.ts";
import type { CanaryApi, CanaryRunsApi } from "./canary-contract.ts";
import type { DeploymentApi } from "./deployment-contract.ts";
import type { FleetApi, FleetShardApi } from "./fleet-contract.ts";
import { shardedFleet } from "./fleet-shards.ts";
import { type RunCounterApi, runCounterProxy } from "./itty.ts";
import type { PredictionApi } from "./prediction-contract.ts";
import type { BlobApi, RepositoryApi } from "./registry-contract.ts";
import type { SearchApi } from "./search-contract.ts";

/** The one index today; one for each region once the catalog is read far away from it. */
const SEARCH_INDEX = "catalog";
/** One round through the whole catalog. */
const CANARY_ROUND = "catalog";
/** Shards of the fleet are `region:number`. */
const FLEET_REGION = "local";

/**
 * Where a new object is made: near the accounts, origins and D1 of this deployment's region. The platform minds it only at the first call of an object,
 * which never moves afterwards; without one an object is made near whoever calls it first. The run counter, on no path that anyone waits for, has none.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/
 */
function placed(env: Env): { locationHint?: DurableObjectLocationHint } {
  return env.LOCATION_HINT === "" ? {} : { locationHint: env.LOCATION_HINT as DurableObjectLocationHint };
}

/** The object that holds the prediction `id`. Ids with an equal {@link predictionObjectName} share it. */
export function predictionStub(env: Env, id: string): PredictionApi {
  return env.PREDICTIONS.getByName(predictionObjectName(id), placed(env)) as unknown as PredictionApi;
}

export function accountStub(env: Env, accountId: string): AccountApi {
  return env.ACCOUNTS.getByName(accountId, placed(env)) as unknown as AccountApi;
}

/** The audit log of an account. */
export function auditStub(env: Env, accountId: string): AuditApi {
  return env.AUDITS.getByName(accountId, placed(env)) as unknown as AuditApi;
}

/** `deploymentKey` as in RunSpec: `version:<id>` or `deployment:<owner>/<name>`. */
export function deploymentStub(env: Env, deploymentKey: string): DeploymentApi {
  return env.DEPLOYMENTS.getByName(deploymentKey, placed(env)) as unknown as DeploymentApi;
}

export function batchStub(env: Env, batchId: string): BatchApi {
  return env.BATCHES.getByName(batchId, placed(env)) as unknown as BatchApi;
}

export function buildStub(env: Env, buildId: string): BuildApi {
  return env.BUILDS.getByName(buildId, placed(env)) as unknown as BuildApi;
}

/** `repository` is owner/name. */
export function repositoryStub(env: Env, repository: string): RepositoryApi {
  return env.REPOSITORIES.getByName(repository, placed(env)) as unknown as RepositoryApi;
}

/** The object that knows the blob `digest` (`sha256:<hex>`): one for each first character of the hex. */
export function blobStub(env: Env, digest: string): BlobApi {
  const shard = digest.charAt(digest.indexOf(":") + 1);
  return env.BLOBS.getByName(shard, placed(env)) as unknown as BlobApi;
}

/** The fleet, whatever the number of its shards. */
export function fleetStub(env: Env): FleetApi {
  return shardedFleet((shard) => fleetShard(env, shard));
}

export function fleetShard(env: Env, shard: number): FleetShardApi {
  return env.FLEETS.getByName(`${FLEET_REGION}:${shard}`, placed(env)) as unknown as FleetShardApi;
}

export function searchStub(env: Env): SearchApi {
  return env.SEARCHES.getByName(SEARCH_INDEX, placed(env)) as unknown as SearchApi;
}

export function canaryStub(env: Env): CanaryApi {
  return env.CANARIES.getByName(CANARY_ROUND, placed(env)) as unknown as CanaryApi;
}

/** What the Worker does for the CanaryObject: another entry of this same Worker (workers/canary-runs.ts), which needs no binding. */
export function canaryRuns(ctx: DurableObjectState): CanaryRunsApi {
  return (ctx.exports as unknown as { CanaryRuns: CanaryRunsApi }).CanaryRuns;
}

/** The counter of runs of `model` (owner/name). */
export function runCounter(env: Env, model: string): RunCounterApi {
  return runCounterProxy(env.RUN_COUNTERS, model);
}
