/** Organizations and their members. Beyond Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const organizations = newRouter();
