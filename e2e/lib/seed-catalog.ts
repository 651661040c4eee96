/** Puts models into the catalog of a running system, straight into its local database: the API has no way to make hundreds with a version each. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

export interface SeedModel {
  owner: string;
  name: string;
  title: string | null;
  description: string | null;
  tags: string[];
  readme: string;
}

/** Rows of one transaction: the database is the edge's too, and waits meanwhile. */
const BATCH = 2_000;

/** The file of the local D1 database. */
function databaseOf(data: string): string {
  const folder = join(data, "edge/d1/miniflare-D1DatabaseObject");
  const file = readdirSync(folder).find((name) => /^[0-9a-f]{64}\.sqlite$/.test(name));
  if (file === undefined) throw new Error(`no database in ${folder}`);
  return join(folder, file);
}

/** Public models, each with a version. */
export function seedCatalog(data: string, rows: Iterable<SeedModel>): void {
  const database = new DatabaseSync(databaseOf(data), { timeout: 10_000 });
  const now = Date.now();
  const model = database.prepare(
    "INSERT INTO models (owner, name, title, description, readme, tags, visibility, state, latest_version_id, latest_version_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, 'public', 'ready', ?, ?, ?, ?)",
  );
  const version = database.prepare(
    "INSERT INTO versions (owner, name, id, openapi_schema, cog_version, slots, memory_bytes, hardware, idempotent, created_at) VALUES (?, ?, ?, ?, '0.17.0', 1, 1000000, 'cpu', 0, ?)",
  );
  const id = "a".repeat(64);
  const schema = JSON.stringify({ openapi: "3.0.2", components: { schemas: { Input: { type: "object" } } } });
  let written = 0;
  database.exec("BEGIN");
  for (const { owner, name, title, description, readme, tags } of rows) {
    model.run(owner, name, title, description, readme, JSON.stringify(tags), id, now, now, now);
    version.run(owner, name, id, schema, now);
    written += 1;
    if (written % BATCH === 0) database.exec("COMMIT; BEGIN");
  }
  database.exec("COMMIT");
  database.close();
}
