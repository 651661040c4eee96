/** What is printed once Cogway serves: the page, the token, and a line to paste. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Example } from "./first-prediction.ts";
import { paint, seconds } from "./progress.ts";
import type { Settings } from "./settings.ts";

/** A longer input goes to a file that the printed line names. */
const INPUT_CHARACTERS_MAX = 1_500;

export function welcome(
  settings: Settings,
  example: Example | null,
  authorityPath: string | null,
  startedAt: number,
): string {
  const { publicUrl, token } = settings;
  return [
    "",
    paint("bold", `Cogway is ready (${seconds(startedAt)}).`),
    "",
    `  page   ${publicUrl}/#token=${token}`,
    `  token  ${token}`,
    `  docs   ${publicUrl}/docs`,
    ...(authorityPath === null ? [] : [`  trust  ${authorityPath}`]),
    "",
    curlLine(settings, example, authorityPath),
    "",
  ].join("\n");
}

/** One line for a POSIX shell. */
function curlLine(
  { localUrl, token, dataDir }: Settings,
  example: Example | null,
  authorityPath: string | null,
): string {
  const trust = authorityPath === null ? "" : ` --cacert ${quoted(authorityPath)}`;
  const start = `curl -s${trust} -H "Authorization: Bearer ${token}"`;
  if (example === null) return `${start} ${localUrl}/v1/models`;
  const body = JSON.stringify({ input: example.input });
  const path = join(dataDir, "example-request.json");
  if (body.length > INPUT_CHARACTERS_MAX) writeFileSync(path, body);
  const data = body.length > INPUT_CHARACTERS_MAX ? quoted(`@${path}`) : quoted(body);
  const url = `${localUrl}/v1/models/cogway/${example.name}/predictions`;
  return `${start} -H "Content-Type: application/json" -H "Prefer: wait" -d ${data} ${url}`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
