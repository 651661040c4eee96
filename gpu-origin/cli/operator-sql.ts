/**
 * Prints the SQL that a platform on Cloudflare starts from: the operator's account, its token (COGWAY_TOKEN), the price book. For `wrangler d1 execute`; the
 * token is in it as its hash alone. Locally `npm start` does the same.
 */
import { operatorSeed } from "../../schema/tables/operator-seed.ts";
import { isTokenWellFormed, newToken } from "../../schema/tokens.ts";

const given = process.env["COGWAY_TOKEN"] ?? "";
if (given !== "" && !isTokenWellFormed(given)) {
  process.stderr.write(
    "COGWAY_TOKEN is no well-formed token (cw_…, with its checksum). Leave it away, and one is made.\n",
  );
  process.exit(1);
}
const token = given === "" ? newToken() : given;
for (const { sql, params } of operatorSeed(token, Date.now())) {
  let at = 0;
  process.stdout.write(`${sql.replaceAll("?", () => literal(params[at++] ?? ""))};\n`);
}
// Not among the SQL: it is shown this once and stored nowhere.
if (given === "") process.stderr.write(`The operator's token: ${token}\n`);

function literal(value: string | number): string {
  return typeof value === "number" ? String(value) : `'${value.replaceAll("'", "''")}'`;
}
