/**
 * Runs coglet in containers of an engine of this host: each in a network of its own, without capabilities, on a read-only root, within bounds of memory,
 * processors, processes and scratch space (docker-container.ts). All that it makes carries the label of this origin's data folder, and nothing else is ever
 * touched.
 *
 * The engine may go away at any time, with its containers: calls then fail as values, and when it is back what is gone is told as exits.
 */
import type { Readable } from "node:stream";
import { setTimeout as wait } from "node:timers/promises";
import type Docker from "dockerode";
import { newId } from "../../schema/ids.ts";
import { COGLET_PORT, containerRequest, INSTANCE_LABEL, imageFacts, ORIGIN_LABEL } from "./docker-container.ts";
import { bounded, Engine, isAway, messageOf, statusOf } from "./docker-engine.ts";
import { EngineEvents } from "./docker-events.ts";
import { FILES_PORT, raiseFirewall } from "./docker-firewall.ts";
import { InstanceNetworks } from "./docker-network.ts";
import { ContainerOutput } from "./docker-output.ts";
import { readContainerFolder } from "./docker-read-folder.ts";
import { FolderSweep } from "./docker-sweep.ts";
import type {
  Adopted,
  Driver,
  FilesAddress,
  InstanceRecord,
  StartResult,
  StartSpec,
  StopResult,
  Watch,
} from "./driver.ts";
import { readLines } from "./lines.ts";

/** Creating and starting pulls a container's layers together, on disks that may be busy. */
const START_TIMEOUT_MS = 120_000;
/** Ending a container waits for the kernel to free its processes. */
const STOP_TIMEOUT_MS = 30_000;
/** Heartbeats wait for it. */
const STATS_TIMEOUT_MS = 2_000;
const REMOVAL_POLL_MS = 50;
/** Lines that were written last may still be on their way when the exit is told. */
const LAST_LINES_MS = 500;
/** gVisor, under the name by which its own documentation registers it with engines. */
const GVISOR = "runsc";
/** Told apart are the starts of one instance. */
const NAME_CHARACTERS = 4;

export interface DockerOptions {
  /** as DOCKER_HOST; empty is the usual socket */
  host: string;
  /** names this origin's data folder */
  originId: string;
  /** CIDR range of the instances' networks */
  subnets: string;
  /** the engine's name of a runtime for all instances; null: gVisor where the engine has it and the model is not trusted */
  runtime: string | null;
  warn: (detail: string) => void;
}

interface Container {
  record: InstanceRecord;
  watch: Watch;
  /** what it writes; ends with it */
  output: ContainerOutput;
  isTold: boolean;
  isOutOfMemory: boolean;
}

export class DockerDriver implements Driver {
  readonly name = "docker";
  readonly isolates = true;
  readonly engine: Engine;
  readonly #options: DockerOptions;
  readonly #networks: InstanceNetworks;
  readonly #events: EngineEvents;
  readonly #sweep: FolderSweep;
  /** by container id */
  readonly #containers = new Map<string, Container>();
  /** instances whose start runs: what the engine has of them is not theirs to lose */
  readonly #starting = new Set<string>();
  /** instances that have a network, or were adopted: what carries another's name is nobody's */
  readonly #known = new Set<string>();
  /** what an earlier process left was taken over or removed */
  #isSettled = false;
  /** instances that ran out of memory since their last start */
  readonly #outOfMemory = new Set<string>();
  #hasGvisor = false;
  /** why the packet filter has no rules of ours; null: it has */
  #firewallFault: string | null = null;
  #isStarted = false;

  /** names this origin's data folder */
  get originId(): string {
    return this.#options.originId;
  }

  constructor(options: DockerOptions) {
    this.#options = options;
    this.engine = new Engine(options.host);
    this.#networks = new InstanceNetworks(this.engine, options.originId, options.subnets);
    this.#sweep = new FolderSweep(this.engine);
    this.#events = new EngineEvents(this.engine, options.originId, {
      onOpen: () => this.#compare(),
      onDie: (id, code) => void this.#exited(id, code),
      onOutOfMemory: (id) => {
        const container = this.#containers.get(id);
        if (container === undefined) return;
        container.isOutOfMemory = true;
        this.#outOfMemory.add(container.record.instance_id);
      },
    });
  }

  async check(): Promise<string | null> {
    const fault = await this.engine.negotiate();
    if (fault !== null) return fault;
    const { runtime } = this.#options;
    const info = await bounded(this.engine.docker.info()).catch(() => null);
    const runtimes = Object.keys(info?.Runtimes ?? {});
    if (runtime !== null && !runtimes.includes(runtime)) {
      return `COGWAY_DOCKER_RUNTIME=${runtime}: the container engine has no such runtime (it has ${runtimes.join(", ")})`;
    }
    this.#hasGvisor = runtimes.includes(GVISOR);
    if (this.#isStarted) return null;
    this.#isStarted = true;
    await this.#raiseFirewall();
    await this.#events.start();
    return null;
  }

  async #raiseFirewall(): Promise<void> {
    const fault = await raiseFirewall();
    if (fault !== null && fault !== this.#firewallFault) {
      this.#options.warn(
        `The host's packet filter could not be set (${fault}): models can reach what listens on all addresses of this host, and those that ask for egress are not started.`,
      );
    }
    this.#firewallFault = fault;
  }

  async filesAddress({ instance_id, egress }: Pick<StartSpec, "instance_id" | "egress">): Promise<FilesAddress> {
    this.#known.add(instance_id);
    // Again each time, beside the network that takes longer: whoever administers the host may have reset its rules.
    const [result] = await Promise.all([this.#networks.ensure(instance_id, egress), this.#raiseFirewall()]);
    if (result.kind === "failed") return { kind: "failed", detail: result.detail };
    if (egress && this.#firewallFault !== null) {
      await this.release(instance_id);
      const detail = `a model with egress needs iptables on the host, to be kept to public addresses: ${this.#firewallFault}`;
      return { kind: "failed", detail };
    }
    return { kind: "ready", host: result.network.host, port: FILES_PORT };
  }

  async start(spec: StartSpec): Promise<StartResult> {
    this.#starting.add(spec.instance_id);
    this.#outOfMemory.delete(spec.instance_id);
    try {
      return await this.#start(spec);
    } catch (error) {
      const detail = messageOf(error);
      if (isAway(error)) return { kind: "failed", reason: "away", detail };
      await this.#removeContainers(spec.instance_id).catch(() => {});
      return { kind: "failed", reason: "spawn", detail: startFault(detail) };
    } finally {
      this.#starting.delete(spec.instance_id);
    }
  }

  async #start(spec: StartSpec): Promise<StartResult> {
    const { docker } = this.engine;
    const { instance_id, version_id, deployment_key, launch, gpus, watch, is_trusted } = spec;
    const image = launch.kind === "image" ? launch.image : "";
    const [network, facts] = await Promise.all([
      this.#networks.ensure(instance_id, spec.egress),
      launch.kind === "image" ? bounded(docker.getImage(image).inspect()).then(imageFacts) : { user: "", volumes: [] },
      // An engine that was away may have kept what it ran.
      this.#removeContainers(instance_id),
    ]);
    if (network.kind === "failed") {
      return { kind: "failed", reason: network.isAway ? "away" : "spawn", detail: network.detail };
    }
    const { name, container: host } = network.network;
    // gVisor has no GPUs without a proxy of its own, which hosts must be set up for.
    const isSandboxed = !is_trusted && this.#hasGvisor && gpus.length === 0;
    const requested = containerRequest(spec, facts, {
      originId: this.#options.originId,
      // The last one's may not be free yet.
      name: `cogway-${instance_id}-${newId(NAME_CHARACTERS)}`,
      network: name,
      address: host,
      runtime: this.#options.runtime ?? (isSandboxed ? GVISOR : null),
    });
    if (requested.kind === "failed") return { kind: "failed", reason: "spawn", detail: requested.detail };
    const created = await bounded(docker.createContainer(requested.options), START_TIMEOUT_MS);
    const address = { host, port: COGLET_PORT };
    const record = { instance_id, version_id, deployment_key, handle: created.id, address, gpus };
    // Before it runs, so that no line and no exit is missed.
    const container = await this.#attach(record, watch);
    try {
      await bounded(created.start(), START_TIMEOUT_MS);
    } catch (error) {
      container.isTold = true;
      this.#containers.delete(created.id);
      throw error;
    }
    return { kind: "started", record };
  }

  async #attach(record: InstanceRecord, watch: Watch): Promise<Container> {
    const output = new ContainerOutput();
    const stream = await bounded(
      this.engine.docker.getContainer(record.handle).attach({ stream: true, stdout: true, stderr: true, logs: false }),
    );
    stream.on("error", () => output.end());
    stream.on("close", () => output.end());
    output.on("error", () => {});
    stream.pipe(output);
    readLines(output, watch.onLine);
    const container: Container = { record, watch, output, isTold: false, isOutOfMemory: false };
    this.#containers.set(record.handle, container);
    return container;
  }

  /** The engine says that it ended, or it was found gone. */
  async #exited(containerId: string, code: number | null): Promise<void> {
    const container = this.#containers.get(containerId);
    if (container === undefined || container.isTold) return;
    container.isTold = true;
    const state = await bounded(this.engine.docker.getContainer(containerId).inspect()).then(
      (info) => info.State,
      () => null,
    );
    const isOutOfMemory = container.isOutOfMemory || (state?.OOMKilled ?? false);
    if (isOutOfMemory) this.#outOfMemory.add(container.record.instance_id);
    const { output } = container;
    if (!output.closed)
      await Promise.race([new Promise((resolve) => output.once("close", resolve)), wait(LAST_LINES_MS)]);
    output.destroy();
    this.#containers.delete(containerId);
    container.watch.onExit({ code: code ?? state?.ExitCode ?? null, signal: null, isOutOfMemory });
    await this.#remove(this.engine.docker.getContainer(containerId)).catch(() => {});
  }

  /** After the engine was away, or at the start: tells what is gone. */
  async #compare(): Promise<void> {
    const listed = await this.#listContainers();
    const running = new Set(listed.filter(({ State }) => State === "running").map(({ Id }) => Id));
    for (const [id, { record }] of this.#containers) {
      if (!running.has(id) && !this.#starting.has(record.instance_id)) void this.#exited(id, null);
    }
    // Of those that ended while the engine was away.
    if (this.#isSettled) await this.reap(this.#known);
  }

  async stop(instanceId: string, graceMs: number): Promise<StopResult> {
    const containers = [...this.#containers].filter(([, { record }]) => record.instance_id === instanceId);
    try {
      if (containers.length === 0) return { kind: "gone" };
      for (const [id] of containers) {
        const container = this.engine.docker.getContainer(id);
        // 304: it had ended; 404, 409: it is gone or going.
        if (graceMs > 0) {
          const call = container.stop({ t: Math.max(1, Math.ceil(graceMs / 1000)) });
          await bounded(call, graceMs + STOP_TIMEOUT_MS).catch(unlessGone);
        }
        await this.#remove(container);
        await this.#exited(id, null);
      }
    } catch (error) {
      // An engine that is away has ended its containers, or the next start removes them; either is told when it is back.
      this.#options.warn(`an instance's container could not be removed: ${messageOf(error)}`);
    }
    return { kind: "stopped" };
  }

  pause(instanceId: string): Promise<boolean> {
    return this.#freeze(instanceId, (container) => container.pause());
  }

  resume(instanceId: string): Promise<boolean> {
    return this.#freeze(instanceId, (container) => container.unpause());
  }

  async #freeze(instanceId: string, act: (container: Docker.Container) => Promise<unknown>): Promise<boolean> {
    const found = [...this.#containers.values()].find(({ record }) => record.instance_id === instanceId);
    if (found === undefined) return false;
    try {
      await bounded(act(this.engine.docker.getContainer(found.record.handle)));
      return true;
    } catch (error) {
      this.#options.warn(`a container could not be paused or resumed: ${messageOf(error)}`);
      return false;
    }
  }

  async readFolder(instanceId: string, path: string): Promise<Readable> {
    const found = [...this.#containers.values()].find(({ record }) => record.instance_id === instanceId);
    if (found === undefined) throw new Error("the instance is gone");
    return readContainerFolder(this.engine.docker.getContainer(found.record.handle), path);
  }

  async release(instanceId: string): Promise<void> {
    this.#known.delete(instanceId);
    this.#outOfMemory.delete(instanceId);
    await this.#networks.remove(instanceId).catch((error: unknown) => {
      this.#options.warn(`an instance's network could not be removed: ${messageOf(error)}`);
    });
  }

  async list(): Promise<InstanceRecord[]> {
    const running = await this.#listContainers();
    const ids = new Set(running.filter(({ State }) => State === "running").map(({ Id }) => Id));
    return [...this.#containers.values()].map(({ record }) => record).filter(({ handle }) => ids.has(handle));
  }

  async adopt(record: InstanceRecord, watch: Watch): Promise<Adopted> {
    try {
      const { State, Config } = await bounded(this.engine.docker.getContainer(record.handle).inspect());
      const isOurs =
        Config.Labels[ORIGIN_LABEL] === this.#options.originId && Config.Labels[INSTANCE_LABEL] === record.instance_id;
      if (!isOurs || !State.Running) return { kind: "gone" };
      await this.#attach(record, watch);
      this.#known.add(record.instance_id);
      return { kind: "adopted" };
    } catch {
      return { kind: "gone" };
    }
  }

  async reap(known: ReadonlySet<string>): Promise<number> {
    this.#isSettled = true;
    try {
      const listed = await this.#listContainers();
      const unknown = listed.filter(({ Labels }) => !known.has(Labels[INSTANCE_LABEL] ?? ""));
      for (const { Id } of unknown) {
        await this.#remove(this.engine.docker.getContainer(Id));
        await this.#exited(Id, null);
      }
      await this.#networks.reap(known);
      return unknown.length;
    } catch (error) {
      this.#options.warn(`containers of an earlier run could not be removed: ${messageOf(error)}`);
      return 0;
    }
  }

  async memoryBytes(instanceId: string): Promise<number | null> {
    const found = [...this.#containers.values()].find(({ record }) => record.instance_id === instanceId);
    if (found === undefined) return null;
    try {
      const container = this.engine.docker.getContainer(found.record.handle);
      const { memory_stats } = await bounded(container.stats({ stream: false, "one-shot": true }), STATS_TIMEOUT_MS);
      // The kernel frees caches before it refuses memory; cgroup v1 and v2 name them differently. Of a container that ends there are no figures.
      const { usage, stats } = memory_stats as { usage?: number; stats?: Record<string, number> };
      if (usage === undefined) return null;
      return Math.max(0, usage - (stats?.["inactive_file"] ?? stats?.["total_inactive_file"] ?? 0));
    } catch {
      return null;
    }
  }

  /** A container without coglet in its Python exits at once; there is nothing to look for. */
  isWorkerAlive(): boolean {
    return true;
  }

  ranOutOfMemory(instanceId: string): boolean {
    return this.#outOfMemory.has(instanceId);
  }

  sweep(instanceId: string, cogId: string): void {
    const found = [...this.#containers.values()].find(({ record }) => record.instance_id === instanceId);
    if (found !== undefined) this.#sweep.add(found.record.handle, cogId);
  }

  async close(): Promise<void> {
    this.#events.stop();
    for (const { output } of this.#containers.values()) output.destroy();
    this.#containers.clear();
  }

  #listContainers(instanceId?: string): Promise<Docker.ContainerInfo[]> {
    const label = [`${ORIGIN_LABEL}=${this.#options.originId}`];
    // Without an instance's label it is none: builds have theirs.
    label.push(instanceId === undefined ? INSTANCE_LABEL : `${INSTANCE_LABEL}=${instanceId}`);
    return bounded(this.engine.docker.listContainers({ all: true, filters: { label } }));
  }

  /** Resolves when none is left, so that their address is free. */
  async #removeContainers(instanceId: string): Promise<void> {
    for (let waited = 0; waited < STOP_TIMEOUT_MS; waited += REMOVAL_POLL_MS) {
      const left = await this.#listContainers(instanceId);
      if (left.length === 0) return;
      // One that is being removed already is only waited for.
      for (const { Id } of left) await this.#remove(this.engine.docker.getContainer(Id));
      await wait(REMOVAL_POLL_MS);
    }
  }

  async #remove(container: Docker.Container): Promise<void> {
    await bounded(container.remove({ force: true, v: true }), STOP_TIMEOUT_MS).catch(unlessGone);
  }
}

/** 304, 404, 409: what was asked for is so already, or is being done. */
function unlessGone(error: unknown): void {
  const status = statusOf(error);
  if (status !== 304 && status !== 404 && status !== 409) throw error;
}

/** The engine's words, with what the operator has to do where they do not tell. */
function startFault(detail: string): string {
  if (!detail.startsWith("could not select device driver")) return detail;
  return `the container engine cannot give GPUs to containers; install the NVIDIA Container Toolkit and restart it (${detail})`;
}
