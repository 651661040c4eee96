/** Trainings: Replicate's HTTP API. */
import { newRouter } from "./router.ts";

export const trainings = newRouter();
