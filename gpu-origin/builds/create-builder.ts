/** The builder that belongs to the driver: processes get environments, containers get images. */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { OriginConfig } from "../config.ts";
import { DockerDriver } from "../drivers/docker.ts";
import type { Driver } from "../drivers/driver.ts";
import type { EdgeClient } from "../edge-client.ts";
import type { Environments } from "../environments.ts";
import type { VersionStore } from "../prepared-version.ts";
import type { Builder } from "./builder.ts";
import { DockerBuilder } from "./docker-builder.ts";
import { baseImages } from "./dockerfile-host.ts";
import { RegistryRelay } from "./image-pull-relay.ts";
import { ProcessBuilder } from "./process-builder.ts";

export interface BuilderParts {
  versions: VersionStore;
  environments: Environments;
  edge: Pick<EdgeClient, "registryToken">;
  /** what builds may inherit of this process */
  env: Record<string, string | undefined>;
}

export function createBuilder(config: OriginConfig, driver: Driver, parts: BuilderParts): Builder {
  const { versions, environments, edge, env } = parts;
  if (!(driver instanceof DockerDriver)) {
    const trainersFolder = join(config.dataDir, "trainers");
    return new ProcessBuilder({ versions, environments, trainersFolder, trustsAll: config.trustsAllModels, env });
  }
  const { baseImage, buildSecrets, runtime } = config.docker;
  const stateDir = join(config.dataDir, "images");
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const relay = new RegistryRelay(config.edgeUrl);
  return new DockerBuilder({
    docker: driver.engine.docker,
    originId: driver.originId,
    versions,
    edge,
    registryHost: () => relay.host(),
    // What is neither an image nor a list of them is refused when the configuration is read.
    baseOf: baseImages(baseImage) ?? ((resolved) => resolved),
    env,
    buildSecrets: buildSecrets === null ? new Map() : readSecrets(buildSecrets),
    runtime,
    stateDir,
  });
}

/** Files of the operator's folder, by their names. */
function readSecrets(folder: string): Map<string, Buffer> {
  const names = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(names.map(({ name }) => [name, readFileSync(join(folder, name))]));
}
