import type { D1Migration } from "@cloudflare/vitest-pool-workers";

declare global {
  namespace Cloudflare {
    interface Env {
      /** given by vitest.config.ts to tests alone */
      TEST_MIGRATIONS: D1Migration[];
    }
  }
}
