/**
 * Floors of the API: a Worker that answers at once, and one that makes a single empty call to a Durable Object, each in a bare workerd with the settings
 * that the launcher gives its own, loop turn included.
 */
import { startBareWorker } from "./bare-worker.ts";

const WORKER = `
import { DurableObject } from "cloudflare:workers";
export class Empty extends DurableObject { ping() { return 1; } }
export default {
  async fetch(request, env) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (request.url.endsWith("/object")) await env.EMPTY.getByName("one").ping();
    return new Response("{}", { headers: { "content-type": "application/json" } });
  },
};
`;

export interface WorkerFloor {
  /** answers at once */
  empty: URL;
  /** answers after one empty object call */
  object: URL;
  stop(): Promise<void>;
}

export async function startWorkerFloor(): Promise<WorkerFloor> {
  const { url, stop } = await startBareWorker(WORKER, { EMPTY: "Empty" });
  return { empty: new URL(`${url}/empty`), object: new URL(`${url}/object`), stop };
}
