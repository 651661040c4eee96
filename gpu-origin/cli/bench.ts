/** `npm run bench`: one of the measurements in bench/, or all of them one after another. */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./paths.ts";
import { progress } from "./progress.ts";

const NAMES = readdirSync(join(ROOT, "bench"))
  .filter((name) => name.endsWith(".ts"))
  .map((name) => name.slice(0, -3));

const HELP = `npm run bench [-- name [arguments]]

Measures the started system: ${NAMES.join(", ")}; without a name all of them. Each prints ratios against a floor of the same run (bench/README.md).`;

const [name, ...args] = process.argv.slice(2);
if (name === "--help" || name === "-h" || (name !== undefined && !NAMES.includes(name))) {
  progress.line(HELP);
  process.exit(name === "--help" || name === "-h" ? 0 : 1);
}
for (const each of name === undefined ? NAMES : [name]) {
  const child = spawn(process.execPath, [join(ROOT, "bench", `${each}.ts`), ...args], { cwd: ROOT, stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => child.kill(signal));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  if (code !== 0) process.exit(code ?? 1);
}
