/** A Worker with nothing of Cogway around it, in a workerd of its own that has the settings which the launcher gives it: what floors are made of. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { freePort } from "../../e2e/lib/system.ts";

const V8_FLAGS = "--max-semi-space-size=4";

export interface BareWorker {
  /** without a slash at its end */
  url: string;
  stop(): Promise<void>;
}

/** `objects`: binding -> class of each Durable Object in `source`. */
export async function startBareWorker(source: string, objects: Record<string, string>): Promise<BareWorker> {
  const folder = mkdtempSync(join(tmpdir(), "cogway-bench-"));
  const port = await freePort();
  process.env["MINIFLARE_WORKERD_V8_FLAGS"] = V8_FLAGS;
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      resourcePersistencePath: folder,
      workers: [
        {
          name: "floor",
          modules: [{ type: "ESModule", path: "floor.js", contents: source }],
          compatibilityDate: "2026-08-01",
          durableObjects: Object.fromEntries(
            Object.entries(objects).map(([binding, className]) => [binding, { className, useSQLite: true }]),
          ),
          unsafeDirectSockets: [{ host: "127.0.0.1", port }],
        },
      ],
    }),
  );
  await miniflare.ready;
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      await miniflare.dispose();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
