/** The started system with the docker driver, over the engine that global-setup.ts found; and what the engine itself says of its instances. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import Docker from "dockerode";
import { inject } from "vitest";
import { System, type SystemOptions } from "../../lib/system.ts";

/** Label of every container of an instance. */
const INSTANCE_LABEL = "run.cogway.instance";

export function engine(): Docker {
  return new Docker({ socketPath: inject("engine").socket });
}

export function dockerEnv(): Record<string, string> {
  const { socket, base } = inject("engine");
  return {
    COGWAY_DRIVER: "docker",
    COGWAY_DOCKER_HOST: `unix://${socket}`,
    // No registry of images need be reachable.
    COGWAY_BASE_IMAGE: base,
  };
}

export function startDockerSystem(options: SystemOptions): Promise<System> {
  return System.start({ ...options, env: { ...dockerEnv(), ...options.env } });
}

export interface InstanceContainer {
  id: string;
  /** in its network */
  address: string;
  /** the host's, in that network */
  gateway: string;
  version_id: string;
  deployment: string;
}

/** Running containers of the system's instances: other files' systems share the engine. */
export async function instanceContainers(system: System): Promise<InstanceContainer[]> {
  const origin = readFileSync(join(system.data, "docker-origin"), "utf8").trim();
  const label = [INSTANCE_LABEL, `run.cogway.origin=${origin}`];
  const found = await engine().listContainers({ filters: { label } });
  return found.flatMap(({ Id, Labels, NetworkSettings }) => {
    const [network] = Object.values(NetworkSettings.Networks);
    if (network === undefined) return [];
    const gateway = network.Gateway === "" ? before(network.IPAddress) : network.Gateway;
    return [
      {
        id: Id,
        address: network.IPAddress,
        gateway,
        version_id: Labels["run.cogway.version"] ?? "",
        deployment: Labels["run.cogway.deployment"] ?? "",
      },
    ];
  });
}

/** The address before it, which is the host's in a network of two. */
function before(address: string): string {
  const parts = address.split(".");
  return [...parts.slice(0, 3), Number(parts[3]) - 1].join(".");
}
