/** Setup file of the workerd test projects: applies the D1 migrations once per test file. */
import { env } from "cloudflare:workers";
import { applyD1Migrations } from "cloudflare:test";

await applyD1Migrations(env.DB, env.TEST_MIGRATIONS);
