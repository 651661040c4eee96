/** Search over models, collections and docs: Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const search = newRouter();
