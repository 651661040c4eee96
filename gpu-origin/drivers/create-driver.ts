/** The driver that the configuration names. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { newId } from "../../schema/ids.ts";
import type { OriginConfig } from "../config.ts";
import { type Log, logProgress } from "../log.ts";
import { DockerDriver } from "./docker.ts";
import type { Driver } from "./driver.ts";
import { ProcessDriver } from "./process.ts";

const ID_CHARACTERS = 16;

/** `env` is what the processes of models inherit. */
export function createDriver(config: OriginConfig, env: Record<string, string | undefined>, log: Log): Driver {
  if (config.driver === "process") return new ProcessDriver(join(config.dataDir, "tmp"), env);
  return new DockerDriver({
    ...config.docker,
    originId: keptId(join(config.dataDir, "docker-origin")),
    warn: (detail) => logProgress(log, { step: "warning", detail }),
  });
}

/** Marks what an engine runs for this data folder: made once, and not the folder's path, which another machine of the same engine may have too. */
function keptId(path: string): string {
  if (!existsSync(path)) writeFileSync(path, newId(ID_CHARACTERS), { mode: 0o600 });
  return readFileSync(path, "utf8").trim();
}
