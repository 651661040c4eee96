/** The engine is there before anything runs: `npm test -- docker`, or e2e/engine/with-engine.ts by hand, starts one around these tests. */
import Docker from "dockerode";
import type { TestProject } from "vitest/node";
import { BASE_IMAGE } from "../engine/base-image.ts";

declare module "vitest" {
  export interface ProvidedContext {
    engine: { socket: string; base: string; offersGvisor: boolean };
  }
}

export default async function setup(project: TestProject): Promise<void> {
  const host = process.env["COGWAY_TEST_DOCKER_HOST"] ?? "";
  const socket = /^unix:\/\/(\/.+)$/.exec(host)?.[1];
  if (socket === undefined) {
    throw new Error(
      "No container engine: run `npm test -- docker`, or set COGWAY_TEST_DOCKER_HOST to the unix:// address of one.",
    );
  }
  const docker = new Docker({ socketPath: socket });
  const { Runtimes: runtimes } = (await docker.info()) as { Runtimes?: Record<string, unknown> };
  await docker
    .getImage(BASE_IMAGE)
    .inspect()
    .catch(() => {
      throw new Error(`The engine at ${host} has no image ${BASE_IMAGE}; e2e/engine/base-image.ts makes its archive.`);
    });
  project.provide("engine", { socket, base: BASE_IMAGE, offersGvisor: runtimes?.["runsc"] !== undefined });
}
