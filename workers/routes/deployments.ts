/** Named deployments of an account: Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const deployments = newRouter();
