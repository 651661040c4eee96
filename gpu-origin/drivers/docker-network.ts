/**
 * A network for each instance: a bridge with one container on it. The first address of its subnet is the host's, where the instance's file server listens,
 * the second one the container's. Without egress the network is internal: nothing leads out of it.
 */
import { createHash } from "node:crypto";
import { networkInterfaces } from "node:os";
import ipaddr from "ipaddr.js";
import { INSTANCE_LABEL, ORIGIN_LABEL } from "./docker-container.ts";
import { bounded, type Engine, messageOf, statusOf } from "./docker-engine.ts";
import { EGRESS_BRIDGE, INTERNAL_BRIDGE } from "./docker-firewall.ts";

/** The smallest that holds a bridge and a container beside its first and last address. */
const SUBNET_BITS = 30;
const SUBNET_SIZE = 2 ** (32 - SUBNET_BITS);
/** Subnets that are tried: others on the host may have taken some. */
const TRIES_MAX = 200;
const BRIDGE_HASH_CHARACTERS = 10;

export interface InstanceNetwork {
  name: string;
  host: string;
  container: string;
}

export type NetworkResult =
  | { kind: "ready"; network: InstanceNetwork }
  | { kind: "failed"; detail: string; isAway: boolean };

export class InstanceNetworks {
  readonly #engine: Engine;
  readonly #originId: string;
  /** CIDR range of which each instance gets a piece */
  readonly #range: string;

  constructor(engine: Engine, originId: string, range: string) {
    this.#engine = engine;
    this.#originId = originId;
    this.#range = range;
  }

  /** The instance's network, made where there is none. */
  async ensure(instanceId: string, egress: boolean): Promise<NetworkResult> {
    try {
      const [known] = await this.#list(instanceId);
      const subnet = known?.IPAM?.Config?.[0]?.Subnet;
      if (known !== undefined && subnet !== undefined) return { kind: "ready", network: placeIn(known.Name, subnet) };
      return await this.#create(instanceId, egress);
    } catch (error) {
      return { kind: "failed", detail: messageOf(error), isAway: statusOf(error) === null };
    }
  }

  async #create(instanceId: string, egress: boolean): Promise<NetworkResult> {
    const name = `cogway-${instanceId}`;
    const bridge = bridgeName(instanceId, egress);
    let detail = `no subnet of ${this.#range} is free (COGWAY_DOCKER_SUBNETS names another range)`;
    for (const subnet of candidates(this.#range, await this.#taken(), instanceId)) {
      try {
        await bounded(
          this.#engine.docker.createNetwork({
            Name: name,
            CheckDuplicate: true,
            Driver: "bridge",
            Internal: !egress,
            EnableIPv6: false,
            IPAM: { Driver: "default", Config: [{ Subnet: subnet, Gateway: placeIn(name, subnet).host }] },
            Options: {
              "com.docker.network.bridge.name": bridge,
              "com.docker.network.bridge.enable_icc": "false",
              "com.docker.network.bridge.enable_ip_masquerade": String(egress),
            },
            Labels: { [ORIGIN_LABEL]: this.#originId, [INSTANCE_LABEL]: instanceId },
          }),
        );
        return { kind: "ready", network: placeIn(name, subnet) };
      } catch (error) {
        // Another user of the engine may have taken it, in a range of his own.
        if (!/overlap/i.test(messageOf(error))) throw error;
        detail = messageOf(error);
      }
    }
    return { kind: "failed", detail, isAway: false };
  }

  /** Subnets of the engine's networks, and those that the host itself has. */
  async #taken(): Promise<string[]> {
    const networks = await bounded(this.#engine.docker.listNetworks());
    const engine = networks.flatMap((network) => (network.IPAM?.Config ?? []).flatMap(({ Subnet }) => Subnet ?? []));
    const host = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
    return [...engine, ...host.flatMap(({ cidr, family }) => (family === "IPv4" && cidr !== null ? [cidr] : []))];
  }

  async remove(instanceId: string): Promise<void> {
    for (const { Id } of await this.#list(instanceId)) await this.#removeOne(Id);
  }

  /** Removes those of other instances of this origin. */
  async reap(known: ReadonlySet<string>): Promise<void> {
    for (const { Id, Labels } of await this.#list(null)) {
      if (!known.has(Labels?.[INSTANCE_LABEL] ?? "")) await this.#removeOne(Id);
    }
  }

  async #removeOne(id: string): Promise<void> {
    await bounded(this.#engine.docker.getNetwork(id).remove()).catch((error: unknown) => {
      if (statusOf(error) !== 404) throw error;
    });
  }

  #list(instanceId: string | null): ReturnType<Engine["docker"]["listNetworks"]> {
    const label = [`${ORIGIN_LABEL}=${this.#originId}`];
    if (instanceId !== null) label.push(`${INSTANCE_LABEL}=${instanceId}`);
    return bounded(this.#engine.docker.listNetworks({ filters: { label } }));
  }
}

export function bridgeName(instanceId: string, egress: boolean): string {
  const hash = createHash("sha256").update(instanceId).digest("hex").slice(0, BRIDGE_HASH_CHARACTERS);
  return (egress ? EGRESS_BRIDGE : INTERNAL_BRIDGE) + hash;
}

function placeIn(name: string, subnet: string): InstanceNetwork {
  const first = numberOf(subnet.split("/")[0] ?? "");
  return { name, host: addressOf(first + 1), container: addressOf(first + 2) };
}

/** Free subnets of the range, from a place on that the instance's id chooses, so that two that are made at once seldom try the same. */
export function candidates(range: string, taken: string[], instanceId: string): string[] {
  const [base = "", bits = "32"] = range.split("/");
  const first = numberOf(base) - (numberOf(base) % 2 ** (32 - Number(bits)));
  const count = Math.floor(2 ** (32 - Number(bits)) / SUBNET_SIZE);
  const spans = taken.map(spanOf);
  const start =
    Number.parseInt(createHash("sha256").update(instanceId).digest("hex").slice(0, 8), 16) % Math.max(1, count);
  const free: string[] = [];
  for (let step = 0; step < count && free.length < TRIES_MAX; step++) {
    const at = first + ((start + step) % count) * SUBNET_SIZE;
    if (spans.some((span) => at < span.end && at + SUBNET_SIZE > span.first)) continue;
    free.push(`${addressOf(at)}/${SUBNET_BITS}`);
  }
  return free;
}

function spanOf(cidr: string): { first: number; end: number } {
  const [address = "", bits = "32"] = cidr.split("/");
  if (!ipaddr.IPv4.isValid(address)) return { first: 0, end: 0 };
  const size = 2 ** (32 - Number(bits));
  const first = numberOf(address) - (numberOf(address) % size);
  return { first, end: first + size };
}

function numberOf(address: string): number {
  return address.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
}

function addressOf(number: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join(".");
}
