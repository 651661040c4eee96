/**
 * Floors of the API: a Worker that answers at once, and one that makes a single empty call to a Durable Object, each in a bare workerd with the settings
 * that the launcher gives its own, loop turn included.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { freePort } from "../../e2e/lib/system.ts";

const V8_FLAGS = "--max-semi-space-size=4";
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
  const folder = mkdtempSync(join(tmpdir(), "cogway-bench-"));
  const port = await freePort();
  process.env["MINIFLARE_WORKERD_V8_FLAGS"] = V8_FLAGS;
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      resourcePersistencePath: folder,
      workers: [
        {
          name: "floor",
          modules: [{ type: "ESModule", path: "floor.js", contents: WORKER }],
          compatibilityDate: "2026-08-01",
          durableObjects: { EMPTY: { className: "Empty", useSQLite: true } },
          unsafeDirectSockets: [{ host: "127.0.0.1", port }],
        },
      ],
    }),
  );
  await miniflare.ready;
  return {
    empty: new URL(`http://127.0.0.1:${port}/empty`),
    object: new URL(`http://127.0.0.1:${port}/object`),
    async stop() {
      await miniflare.dispose();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
