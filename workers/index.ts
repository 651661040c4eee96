/** The Worker: fetch, and the object classes that wrangler.toml binds. */
import { app } from "./app.ts";

export { AccountObject } from "../durable-objects/account.ts";
export { BatchObject } from "../durable-objects/batch.ts";
export { DeploymentObject } from "../durable-objects/deployment.ts";
export { FleetObject } from "../durable-objects/fleet.ts";
export { PredictionObject } from "../durable-objects/prediction.ts";
export { RunCounter } from "../durable-objects/run-counter.ts";
export { SearchObject } from "../durable-objects/search.ts";

export default { fetch: app.fetch } satisfies ExportedHandler<Env>;
