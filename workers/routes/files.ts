/** Files that callers upload: Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const files = newRouter();
