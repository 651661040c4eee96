/** Collections of models: Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const collections = newRouter();
