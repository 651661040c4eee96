/** API tokens of the caller's account. Beyond Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const tokens = newRouter();
