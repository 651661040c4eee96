/** What an operator gives `wrangler d1 execute` after the migrations. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { execa } from "execa";
import { expect, it } from "vitest";
import { hashToken, newToken } from "../../schema/tokens.ts";
import { ROOT } from "./paths.ts";

const run = (token: string) =>
  execa(process.execPath, [join(ROOT, "gpu-origin/cli/operator-sql.ts")], {
    env: { COGWAY_TOKEN: token, NODE_OPTIONS: "" },
    reject: false,
  });

it("makes the operator of an empty database, with a token that is nowhere in it, and may be repeated", async () => {
  const token = newToken();
  const { stdout, stderr } = await run(token);
  expect(stdout + stderr).not.toContain(token);
  const db = new DatabaseSync(":memory:");
  const folder = join(ROOT, "schema/migrations");
  for (const name of readdirSync(folder)
    .filter((each) => each.endsWith(".sql"))
    .sort()) {
    for (const sql of readFileSync(join(folder, name), "utf8").split("--> statement-breakpoint")) db.exec(sql);
  }
  for (let again = 0; again < 2; again++) db.exec(stdout);
  expect(db.prepare("SELECT hash, account_id FROM tokens").all()).toEqual([
    { hash: hashToken(token), account_id: "cogway" },
  ]);
  expect(db.prepare("SELECT count(*) AS n FROM hardware_prices").get()).toEqual({ n: 7 });
});

it("makes a token where none is given, shown beside the SQL, and refuses what is none", async () => {
  const made = await run("");
  const token = /cw_[0-9A-Za-z]{36}/.exec(made.stderr)?.[0] ?? "";
  expect(made.stdout).toContain(hashToken(token));
  expect(made.stdout).not.toContain(token);
  expect((await run("cw_nonsense")).exitCode).toBe(1);
});
