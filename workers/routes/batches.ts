/** Batches: one version over many inputs. Beyond Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const batches = newRouter();
