/** A step of the build, a process of its own because wrangler is large: writes the Worker's settings in wrangler.toml as Miniflare's options. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { unstable_getMiniflareWorkerOptions } from "wrangler";
import { ROOT } from "./paths.ts";

const [out = ""] = process.argv.slice(2);
const { workerOptions } = unstable_getMiniflareWorkerOptions(join(ROOT, "wrangler.toml"));
// The rules say how modules are found in sources; the build has found them.
const { modulesRules: _, ...options } = workerOptions;
writeFileSync(out, `${JSON.stringify(options, null, 2)}\n`);
