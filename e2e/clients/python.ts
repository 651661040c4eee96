/** PyPI `replicate`: the 1.x client and the beta of 2.x, each in a Python environment of its own that is made once. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { checksOf } from "./checks.ts";
import { CLIENTS_CACHE, type Stage } from "./stage.ts";

const FOLDER = join(import.meta.dirname, "python");
/** One more comes back each second once they are used. */
const HASTY_READS_PER_MINUTE = 60;
const INSTALL_TIMEOUT_MS = 240_000;

export function pythonClient(stage: () => Stage): void {
  programOf("replicate-1", stage, (url) => url);
}

/** Its base URL has the `/v1` that the other's must not have. */
export function pythonBetaClient(stage: () => Stage): void {
  programOf("replicate-2", stage, (url) => `${url}/v1`);
}

function programOf(name: string, stage: () => Stage, baseUrl: (url: string) => string): void {
  const script = join(FOLDER, `${name.replace("-", "_")}.py`);
  const checks = [...readFileSync(script, "utf8").matchAll(/^@check\n(?:async )?def (\w+)/gm)].map(
    ([, check = ""]) => check,
  );
  checksOf(checks, async () => {
    const command = await environmentOf(join(FOLDER, `${name}.txt`), name);
    const account = await stage().account(name);
    const hasty = await stage().account(`${name}-hasty`, { reads_per_minute: HASTY_READS_PER_MINUTE });
    const env = {
      ...stage().environment(account),
      REPLICATE_BASE_URL: baseUrl(account.url),
      ACCOUNT: name,
      HASTY_TOKEN: hasty.token,
    };
    return { command, args: [script], env };
  });
}

/** The Python of an environment with what the file requires. */
async function environmentOf(requirements: string, name: string): Promise<string> {
  const digest = createHash("sha256").update(readFileSync(requirements)).digest("hex").slice(0, 16);
  const folder = join(CLIENTS_CACHE, `${name}-${digest}`);
  const whole = join(folder, "whole");
  const python = join(folder, "bin/python");
  if (existsSync(whole)) return python;
  rmSync(folder, { recursive: true, force: true });
  await execa("python3", ["-m", "venv", folder]);
  await execa(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements], {
    timeout: INSTALL_TIMEOUT_MS,
  });
  writeFileSync(whole, "");
  return python;
}
