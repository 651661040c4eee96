/** The Worker: fetch, and the object classes that wrangler.toml binds. */
import { app } from "./app.ts";

export { AccountObject } from "../durable-objects/account.ts";
export { AuditObject } from "../durable-objects/audit.ts";
export { BatchObject } from "../durable-objects/batch.ts";
export { BlobObject } from "../durable-objects/blobs.ts";
export { BuildObject } from "../durable-objects/build.ts";
export { CanaryObject } from "../durable-objects/canary.ts";
export { DeploymentObject } from "../durable-objects/deployment.ts";
export { FleetObject } from "../durable-objects/fleet.ts";
export { PredictionObject } from "../durable-objects/prediction.ts";
export { RepositoryObject } from "../durable-objects/repository.ts";
export { RunCounter } from "../durable-objects/run-counter.ts";
export { SearchObject } from "../durable-objects/search.ts";
export { CanaryRuns } from "./canary-runs.ts";

export default { fetch: app.fetch } satisfies ExportedHandler<Env>;
