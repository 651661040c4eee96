/** Builds of pushed sources: Cogway's own addition to Replicate's API. */
import { newRouter } from "./router.ts";

export const builds = newRouter();
