/** Owns one batch: its inputs, which of them run, and their results. */
import { DurableObject } from "cloudflare:workers";
import type { BatchApi, BatchSettlement } from "./contracts.ts";

export class BatchObject extends DurableObject<Env> implements BatchApi {
  async settled(_settlements: BatchSettlement[]): Promise<void> {}
}
