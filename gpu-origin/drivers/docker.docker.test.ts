import Docker from "dockerode";
import { beforeAll, describe, inject } from "vitest";
import { newId } from "../../schema/ids.ts";
import { testImage } from "../testing/docker-image.ts";
import { DockerDriver } from "./docker.ts";
import { describeDriverContract } from "./driver-contract.ts";

const engine = inject("engine");
const docker = new Docker({ socketPath: engine.socket });
let image = "";

beforeAll(async () => {
  image = await testImage(docker, engine.base);
}, 240_000);

const aDriver = (originId: string): DockerDriver =>
  new DockerDriver({
    host: `unix://${engine.socket}`,
    originId,
    subnets: "10.197.0.0/16",
    runtime: null,
    warn: (detail) => console.warn(detail),
  });

describe("the docker driver", () => {
  const originId = newId(16);
  describeDriverContract({
    createDriver: async () => aDriver(originId),
    launch: () => ({ kind: "image", image, mounts: [] }),
    env: {},
    missing: () => ({ kind: "image", image: "cogway-driver-test:missing", mounts: [] }),
    reused: (handle) => handle.replace(/^.{8}/, "00000000"),
    runsCoglet: true,
  });
});
