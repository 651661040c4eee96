import { describe, expect, it } from "vitest";
import { parseConfig } from "./config.ts";

const configOf = (env: Record<string, string>) => {
  const parsed = parseConfig(env);
  if (!parsed.ok) throw new Error(parsed.detail);
  return parsed.config;
};

describe("the driver's settings", () => {
  it("are processes unless told, of the operator's models alone", () => {
    expect(configOf({ DOCKER_HOST: "tcp://10.0.0.1:2375" })).toMatchObject({
      driver: "process",
      trustsAllModels: false,
    });
    expect(configOf({ COGWAY_TRUST_ALL_MODELS: "1" }).trustsAllModels).toBe(true);
  });

  it("name the engine as Docker's own tools do, or by a variable of their own", () => {
    const docker = { COGWAY_DRIVER: "docker" };
    expect(configOf(docker).docker).toMatchObject({ host: "", runtime: null, subnets: "10.197.0.0/16" });
    const both = { ...docker, DOCKER_HOST: "unix:///a.sock", COGWAY_DOCKER_HOST: "unix:///b.sock" };
    expect(configOf(both).docker.host).toBe("unix:///b.sock");
    expect(configOf({ ...docker, DOCKER_HOST: "unix:///a.sock" }).docker.host).toBe("unix:///a.sock");
    expect(configOf({ ...docker, COGWAY_DOCKER_RUNTIME: "runsc" }).docker.runtime).toBe("runsc");
  });

  it("bound the cores of an instance to those of the host", () => {
    expect(configOf({ COGWAY_INSTANCE_CPUS: "0.5" }).instanceCpus).toBe(0.5);
    const { instanceCpus, hardware } = configOf({ COGWAY_INSTANCE_CPUS: "100000" });
    expect(instanceCpus).toBe(hardware.cpus);
  });

  it("divide the host between its origins, of which the first tells of the models", () => {
    const whole = configOf({});
    const [first, second] = [configOf({ COGWAY_HOST_PART: "1/2" }), configOf({ COGWAY_HOST_PART: "2/2" })];
    expect(whole.hostPart).toEqual({ index: 0, of: 1 });
    expect([first.hostPart.index, second.hostPart.index]).toEqual([0, 1]);
    expect(first.capacity).toEqual(second.capacity);
    expect(first.capacity.memory_bytes * 2).toBeLessThanOrEqual(whole.capacity.memory_bytes);
    expect(first.hardware.cpus + second.hardware.cpus).toBe(whole.hardware.cpus);
    expect(first.instanceCpus + second.instanceCpus).toBe(whole.instanceCpus);
  });

  it.each([
    [{ COGWAY_HOST_PART: "3/2" }, "COGWAY_HOST_PART: must be a part of a number of parts"],
    [{ COGWAY_HOST_PART: "0/2" }, "COGWAY_HOST_PART: must be a part of a number of parts"],
    [{ COGWAY_DRIVER: "kubernetes" }, "COGWAY_DRIVER=kubernetes is not available yet; use process or docker."],
    [{ COGWAY_DRIVER: "docker", DOCKER_HOST: "tcp://10.0.0.1:2375" }, "DOCKER_HOST=tcp://10.0.0.1:2375: instances are"],
    [{ COGWAY_DRIVER: "docker", COGWAY_DOCKER_HOST: "ssh://host" }, "COGWAY_DOCKER_HOST=ssh://host: instances are"],
    [{ COGWAY_DOCKER_SUBNETS: "10.1.0.0/28" }, "COGWAY_DOCKER_SUBNETS: must be an IPv4 CIDR range of /24 or larger"],
    [{ COGWAY_DOCKER_SUBNETS: "fd00::/64" }, "COGWAY_DOCKER_SUBNETS: must be an IPv4"],
    [{ COGWAY_TRUST_ALL_MODELS: "yes" }, "COGWAY_TRUST_ALL_MODELS: must be 1 or 0"],
    [{ COGWAY_INSTANCE_CPUS: "none" }, "COGWAY_INSTANCE_CPUS: must be a number of cores"],
  ])("%j: one line says what is wrong", (env, detail) => {
    const parsed = parseConfig(env);
    expect(parsed.ok ? "" : parsed.detail).toContain(detail);
  });
});
