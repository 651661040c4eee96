/** Hosts of a fleet: found dead in time, drained, listed, removed, invited, and divided into shards; instances that are paused in place of ending. */
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  HEARTBEAT_INTERVAL_MS,
  InstanceBootSchema,
  type InstanceStatus,
  type Register,
} from "../schema/origin-protocol.ts";
import { FleetObject } from "./fleet.ts";
import type { FleetShardApi, PlaceRequest, PlaceResult } from "./fleet-contract.ts";
import { PAUSED_MAX_MS } from "./fleet-placement.ts";
import { forgetShards, idIn, ORIGINS_PER_SHARD, shardedFleet, shardOf } from "./fleet-shards.ts";
import { forgetOrigins, originEntry, originSecret } from "./origin-directory.ts";
import { fleetShard, fleetStub } from "./stubs.ts";
import { aStatus, envWith, freshName, passTime, stopClock, withObject } from "./testing/harness.ts";

const DETECTION_MAX_MS = 25_000;

function aRegister(change: Partial<Register> = {}): Register {
  return {
    protocol: 1,
    url: "http://127.0.0.1:9999",
    incarnation: "first",
    region: "local",
    driver: "process",
    hardware: [{ sku: "cpu", name: "CPU", cpus: 2, memory_bytes: 2_000, gpus: 0 }],
    capacity: { instances: 8, memory_bytes: 2_000 },
    instances: [],
    ...change,
  };
}

function aPlace(change: Partial<PlaceRequest> = {}): PlaceRequest {
  return {
    deployment_key: "version:a",
    version_id: "a".repeat(64),
    mode: "predict",
    weights: null,
    slots: 1,
    memory_bytes: 600,
    hardware: "cpu",
    setup_timeout_ms: 60_000,
    ...change,
  };
}

/** What is around the fleet: origins that take every call, and deployments that answer as a test says. */
class Around {
  calls: { what: string; instance_id: string }[] = [];
  gone: { origin_id: string; at: number }[] = [];
  changed: string[] = [];
  /** asked to be replaced; those in `mayGo` go */
  asked: string[][] = [];
  mayGo = new Set<string>();
  pauses = true;
  /** what happens while an origin or a deployment is asked so; fails where that throws */
  during = async (_what: string, _id: string): Promise<void> => undefined;

  env(): Env {
    return envWith({
      origin: (request) => this.#answer(request),
      deployment: () => ({
        instancesGone: async (origin_id) => {
          await this.during("gone", origin_id);
          this.gone.push({ origin_id, at: Date.now() });
        },
        instancesChanged: async (_origin, statuses) => {
          this.changed.push(...statuses.map((status) => status.instance_id));
        },
        evictIdle: async () => true,
        replaceInstances: async (instance_ids) => {
          this.asked.push(instance_ids);
          return instance_ids.filter((id) => this.mayGo.has(id));
        },
      }),
    });
  }

  async #answer(request: Request): Promise<Response> {
    const [, , , id, what = "boot"] = new URL(request.url).pathname.split("/");
    const boot = what === "boot" ? InstanceBootSchema.parse(await request.json()) : null;
    const instance_id = boot?.instance_id ?? id ?? "";
    this.calls.push({ what, instance_id });
    await this.during(what, instance_id);
    if (what === "pause" && !this.pauses) {
      return Response.json({ code: "instance.busy", detail: "It is not idle." }, { status: 409 });
    }
    const states = { boot: "boot", pause: "paused", resume: "ready", drain: "draining" } as const;
    const state = states[what as keyof typeof states];
    return Response.json(aStatus({ instance_id, state }), { status: 202 });
  }

  /** of a kind, in order */
  told(what: string): string[] {
    return this.calls.filter((call) => call.what === what).map((call) => call.instance_id);
  }
}

interface Tools {
  around: Around;
  origins: string[];
  state: DurableObjectState;
  restart: () => FleetObject;
}

/** A fleet of one shard with origins that joined by invitation. */
function withFleet(test: (fleet: FleetObject, tools: Tools) => Promise<void>, count = 2): Promise<void> {
  return withObject("FLEETS", freshName(), async (state) => {
    const around = new Around();
    const restart = () => new FleetObject(state as never, around.env());
    const fleet = restart();
    const origins: string[] = [];
    for (let n = 0; n < count; n++) origins.push(await join(fleet, `host-${n}`));
    await test(fleet, { around, origins, state, restart });
  });
}

async function join(fleet: Pick<FleetShardApi, "inviteOrigin" | "register">, incarnation: string): Promise<string> {
  const { join_token } = await fleet.inviteOrigin();
  const joined = await fleet.register(aRegister({ join_token, incarnation }), null);
  if (!joined.ok) throw new Error(joined.detail);
  return joined.result.origin_id;
}

type Placed = Extract<PlaceResult, { kind: "placed" }>;

async function placed(fleet: FleetObject, change: Partial<PlaceRequest> = {}): Promise<Placed> {
  const result = await fleet.place(aPlace(change));
  if (result.kind !== "placed") throw new Error(result.detail);
  return result;
}

function beat(fleet: FleetShardApi, tools: Pick<Tools, "origins">, originId: string, instances: InstanceStatus[]) {
  return fleet.heartbeat(originId, { incarnation: `host-${tools.origins.indexOf(originId)}`, instances });
}

beforeEach(() => {
  stopClock();
  forgetShards();
});
afterEach(() => {
  vi.useRealTimers();
  forgetShards();
});

describe("dead origins", () => {
  it("are all found within 25 s of their death, and none that lives is", () =>
    withFleet(async (fleet, tools) => {
      const { around, origins, state } = tools;
      const began = Date.now();
      const hosts = await Promise.all(
        origins.map(async (_, n) => {
          // Each instance fills a host.
          const { origin_id, instance_id } = await placed(fleet, { deployment_key: `d${n}`, memory_bytes: 2_000 });
          const dies_at = n % 4 === 0 ? null : began + 10_000 + ((n * 7_919) % 60_000);
          return { origin_id, instance_id, dies_at, next_beat: began + ((n * 1_013) % HEARTBEAT_INTERVAL_MS) };
        }),
      );
      expect(new Set(hosts.map((host) => host.origin_id)).size).toBe(origins.length);
      for (; Date.now() < began + 100_000; passTime(250)) {
        const now = Date.now();
        for (const host of hosts) {
          if (host.next_beat > now || (host.dies_at !== null && host.dies_at <= now)) continue;
          host.next_beat += HEARTBEAT_INTERVAL_MS;
          await beat(fleet, tools, host.origin_id, [aStatus({ instance_id: host.instance_id })]);
        }
        const due = await state.storage.getAlarm();
        if (due !== null && due <= now) await fleet.alarm();
      }
      const found = hosts
        .filter((host) => host.dies_at !== null)
        .map((host) => (around.gone.find((each) => each.origin_id === host.origin_id)?.at ?? 0) - (host.dies_at ?? 0))
        .sort((a, b) => a - b);
      expect(found[0]).toBeGreaterThan(0);
      expect(found.at(-1)).toBeLessThanOrEqual(DETECTION_MAX_MS);
      expect(around.gone).toHaveLength(found.length);
      console.info(
        `dead origins: found after ${found[0]} to ${found.at(-1)} ms, median ${found[found.length >> 1]} ms`,
      );
    }, 60));

  it("are found though the deployment of another's instance cannot be told, which is tried again", () =>
    withFleet(async (fleet, { around, origins, state }) => {
      for (const n of [1, 2]) await placed(fleet, { deployment_key: `d${n}`, memory_bytes: 2_000 });
      const [first = "", second = ""] = origins;
      around.during = async (what, id) => {
        if (what === "gone" && id === first) throw new Error("overloaded");
      };
      passTime(DETECTION_MAX_MS);
      await fleet.alarm();
      expect(around.gone.map(({ origin_id }) => origin_id)).toEqual([second]);
      around.during = async () => undefined;
      passTime(((await state.storage.getAlarm()) ?? Number.POSITIVE_INFINITY) - Date.now());
      await fleet.alarm();
      expect(around.gone.map(({ origin_id }) => origin_id)).toEqual([second, first]);
    }));

  it("are not lost where they come back while their deployments are told", () =>
    withFleet(async (fleet, tools) => {
      const { origin_id } = await placed(fleet);
      tools.around.during = async (what) => {
        if (what === "gone") await beat(fleet, tools, origin_id, []);
      };
      passTime(DETECTION_MAX_MS);
      await fleet.alarm();
      expect(await fleet.listOrigins(null, 9)).toMatchObject([{ state: "ready", instances: [] }]);
    }, 1));
});

describe("a heartbeat", () => {
  it("tells what settled also where it cannot tell what is gone", () =>
    withFleet(async (fleet, tools) => {
      const { around } = tools;
      const stays = await placed(fleet, { memory_bytes: 100 });
      const goes = await placed(fleet, { deployment_key: "version:b", memory_bytes: 100 });
      const [kept, lost] = [stays, goes].map(({ instance_id }) => aStatus({ instance_id }));
      if (kept === undefined || lost === undefined) throw new Error("two were placed");
      await beat(fleet, tools, stays.origin_id, [kept, lost]);
      around.during = async (what) => {
        if (what === "gone") throw new Error("overloaded");
      };
      await expect(beat(fleet, tools, stays.origin_id, [kept])).rejects.toThrow("overloaded");
      expect(around.changed).toEqual([stays.instance_id]);
    }, 1));
});

describe("draining a host", () => {
  it("sends nothing new there, neither instance nor build, and the rest goes on; over a restart, until it is undone", () =>
    withFleet(async (fleet, tools) => {
      const [first = "", second = ""] = tools.origins;
      expect(await fleet.drainOrigin("unknown", true)).toBeNull();
      expect(await fleet.drainOrigin(first, true)).toMatchObject({ origin_id: first, state: "drained" });
      const again = tools.restart();
      for (const n of [1, 2, 3]) expect((await placed(again, { deployment_key: `d${n}` })).origin_id).toBe(second);
      const process = { packages: ["source" as const], untrusted: false };
      for (const [n, origin] of tools.origins.entries()) {
        await again.register(aRegister({ incarnation: `host-${n}`, runs: process }), origin);
      }
      expect(await again.placeBuild("b1", true, [])).toEqual({ origin_id: second });
      expect(await again.placeBuild("b1", true, [second])).toMatchObject({ refused: expect.any(String) });
      const states = (await again.listOrigins(null, 9)).map(({ origin_id, state }) => [origin_id, state]);
      expect(Object.fromEntries(states)).toEqual({ [first]: "drained", [second]: "ready" });
      expect(await again.drainOrigin(first, false)).toMatchObject({ state: "ready" });
      expect((await placed(again, { memory_bytes: 2_000 })).origin_id).toBe(first);
    }));

  it("asks deployments for replacements until they let their instances go, and ends what is paused at once", () =>
    withFleet(async (fleet, tools) => {
      const { around, state } = tools;
      const one = await placed(fleet);
      const idle = await placed(fleet, { deployment_key: "version:b" });
      const listed = [one, idle].map(({ instance_id }) => aStatus({ instance_id }));
      const origin = one.origin_id;
      expect(idle.origin_id).toBe(origin);
      await beat(fleet, tools, origin, listed);
      await fleet.drain(origin, idle.instance_id, "idle");
      expect(around.told("pause")).toEqual([idle.instance_id]);

      expect(await fleet.drainOrigin(origin, true)).toMatchObject({ state: "draining", used: { instances: 2 } });
      expect(around.told("drain")).toEqual([idle.instance_id]);
      expect(around.asked).toEqual([[one.instance_id]]);
      around.mayGo.add(one.instance_id);
      passTime(2_000);
      expect(await state.storage.getAlarm()).toBeLessThanOrEqual(Date.now());
      await fleet.alarm();
      expect(around.told("drain")).toEqual([idle.instance_id, one.instance_id]);
      await beat(
        fleet,
        tools,
        origin,
        [one, idle].map((each) => aStatus({ ...each, state: "stopped" })),
      );
      const listing = (await fleet.listOrigins(null, 9)).find(({ origin_id }) => origin_id === origin);
      expect(listing).toMatchObject({ state: "drained", used: { instances: 0, memory_bytes: 0 }, instances: [] });
    }));

  it("is what removing asks for: one that runs something stays, a lost or empty one goes with its keys", () =>
    withFleet(async (fleet, tools) => {
      const { origin_id } = await placed(fleet);
      const other = tools.origins.find((id) => id !== origin_id) ?? "";
      expect(await fleet.removeOrigin("unknown")).toBe("unknown");
      expect(await fleet.removeOrigin(origin_id)).toBe("in_use");
      expect(await fleet.removeOrigin(other)).toBe("removed");
      expect((await fleet.keys()).map((key) => key.origin_id)).toEqual([origin_id]);
      expect(await fleet.register(aRegister(), other)).toMatchObject({ ok: false });
      passTime(60_000);
      expect(await fleet.removeOrigin(origin_id)).toBe("removed");
      expect(tools.around.gone).toMatchObject([{ origin_id }]);
      expect(await fleet.listOrigins(null, 9)).toEqual([]);
    }));
});

describe("an invitation", () => {
  it("adds one origin, and ends when it is used and after a day", () =>
    withFleet(async (fleet) => {
      const { join_token, expires_at } = await fleet.inviteOrigin();
      passTime(expires_at - Date.now());
      expect(await fleet.register(aRegister({ join_token }), null)).toMatchObject({ ok: false });
      const next = await fleet.inviteOrigin();
      const register = aRegister({ join_token: next.join_token });
      expect(await fleet.register(register, null)).toMatchObject({ ok: true });
      expect(await fleet.register({ ...register, incarnation: "thief" }, null)).toMatchObject({ ok: false });
    }, 0));
});

describe("an idle instance", () => {
  const setUp = async (fleet: FleetObject, tools: Tools, change: Partial<PlaceRequest> = {}) => {
    const instance = await placed(fleet, change);
    await beat(fleet, tools, instance.origin_id, [aStatus({ instance_id: instance.instance_id })]);
    await fleet.drain(instance.origin_id, instance.instance_id, "idle");
    return instance;
  };

  it("is paused, keeps its room, and is resumed for a request that would boot the same, and for no other", () =>
    withFleet(async (fleet, tools) => {
      const { instance_id, origin_id } = await setUp(fleet, tools);
      expect(tools.around.told("pause")).toEqual([instance_id]);
      expect(tools.around.told("drain")).toEqual([]);
      expect((await fleet.listOrigins(null, 9)).find((each) => each.origin_id === origin_id)?.used.instances).toBe(1);
      for (const other of [{ slots: 2 }, { version_id: "b".repeat(64) }, { deployment_key: "version:b" }]) {
        expect((await placed(fleet, other)).instance_id).not.toBe(instance_id);
      }
      const again = tools.restart();
      const use = { arrivals_per_hour: 5, cold_start_ms: 100 };
      expect(await placed(again, { is_starving: true, use })).toEqual({
        ...{ kind: "placed", instance_id, origin_id, resumed: true },
      });
      expect(tools.around.told("resume")).toEqual([instance_id]);
      expect((await placed(again)).instance_id).not.toBe(instance_id);
    }));

  it("stays paused where its deployment did not hear of it and asks again, and hears then that it is gone", () =>
    withFleet(async (fleet, tools) => {
      const { instance_id, origin_id } = await setUp(fleet, tools);
      expect(await tools.restart().drain(origin_id, instance_id, "released")).toBe(false);
      expect(tools.around.told("drain")).toEqual([]);
      expect(await placed(fleet)).toMatchObject({ instance_id, resumed: true });
    }));

  it("ends where the fleet died between the pause and its record, when its deployment asks again", () =>
    withFleet(async (fleet, tools) => {
      const { instance_id, origin_id } = await placed(fleet);
      await beat(fleet, tools, origin_id, [aStatus({ instance_id })]);
      const died = Promise.withResolvers<void>();
      tools.around.during = (what) => (what === "pause" ? died.promise : Promise.resolve());
      const lost = fleet.drain(origin_id, instance_id, "idle");
      await vi.waitFor(() => expect(tools.around.told("pause")).toEqual([instance_id]));
      const again = tools.restart();
      await beat(again, tools, origin_id, [aStatus({ instance_id, state: "paused" })]);
      expect(await again.drain(origin_id, instance_id, "released")).toBe(true);
      expect(tools.around.told("drain")).toEqual([instance_id]);
      died.resolve();
      await lost;
      expect((await placed(again)).instance_id).not.toBe(instance_id);
    }));

  it("is not given to whom its host was lost while it was resumed", () =>
    withFleet(async (fleet, tools) => {
      const { instance_id, origin_id } = await setUp(fleet, tools);
      await beat(fleet, tools, origin_id, [aStatus({ instance_id, state: "paused" })]);
      tools.around.during = async (what) => {
        if (what === "resume") await beat(fleet, tools, origin_id, []);
      };
      expect((await placed(fleet)).instance_id).not.toBe(instance_id);
    }));

  it("ends by the next heartbeat where the call that ends it was lost", () =>
    withFleet(async (fleet, tools) => {
      const { instance_id, origin_id } = await setUp(fleet, tools);
      tools.around.during = async (what) => {
        if (what === "drain") throw new TypeError("connection refused");
      };
      passTime(PAUSED_MAX_MS);
      const paused = aStatus({ instance_id, state: "paused" });
      await beat(fleet, tools, origin_id, [paused]);
      await fleet.alarm();
      expect((await beat(fleet, tools, origin_id, [paused])).unowned).toEqual([instance_id]);
      const draining = aStatus({ instance_id, state: "draining" });
      expect((await beat(fleet, tools, origin_id, [draining])).unowned).toEqual([]);
    }, 1));

  it("is ended where it has devices, was a trainer, or the origin cannot pause it", () =>
    withFleet(async (fleet, tools) => {
      const trainer = await setUp(fleet, tools, { mode: "train" });
      for (const [n, origin] of tools.origins.entries()) {
        const capacity = { instances: 8, memory_bytes: 2_000, gpus: 1 };
        await fleet.register(aRegister({ incarnation: `host-${n}`, capacity }), origin);
      }
      const gpu = await setUp(fleet, tools, { deployment_key: "version:g", gpus: 1 });
      tools.around.pauses = false;
      const busy = await setUp(fleet, tools, { deployment_key: "version:b" });
      expect(tools.around.told("drain")).toEqual([trainer, gpu, busy].map((each) => each.instance_id));
    }));

  it("makes room for others without anybody being asked, and ends when nobody wanted it for long", () =>
    withFleet(async (fleet, tools) => {
      const first = await setUp(fleet, tools);
      const larger = aPlace({ deployment_key: "version:b", memory_bytes: 1_900 });
      expect(await fleet.place(larger)).toMatchObject({ kind: "placed", origin_id: first.origin_id });
      expect(tools.around.told("drain")).toEqual([first.instance_id]);
      await beat(fleet, tools, first.origin_id, []);
      const second = await setUp(fleet, tools, { deployment_key: "version:c", memory_bytes: 50 });
      passTime(PAUSED_MAX_MS - 1_000);
      await beat(fleet, tools, second.origin_id, [aStatus({ instance_id: second.instance_id, state: "paused" })]);
      passTime(1_000);
      await fleet.alarm();
      expect(tools.around.told("drain")).toContain(second.instance_id);
    }, 1));
});

describe("shards", () => {
  it("hold 500 origins each: the next one joins another, and its id leads there", async () => {
    const fleet = fleetStub(env);
    for (let n = 0; n < ORIGINS_PER_SHARD; n++) {
      await fleetShard(env, 0).adopt(`full-${n}`, aRegister({ incarnation: `full-${n}` }), {});
    }
    forgetShards();
    const runs = { packages: ["source" as const], untrusted: true };
    const { join_token } = await fleet.inviteOrigin();
    const joined = await fleet.register(aRegister({ join_token, runs, incarnation: "new" }), null);
    if (!joined.ok || joined.result.key === undefined) throw new Error("it must join");
    const { origin_id, key } = joined.result;
    expect([shardOf(origin_id), shardOf(key.key_id)]).toEqual([1, 1]);
    expect(await fleet.heartbeat(origin_id, { incarnation: "new", instances: [] })).toMatchObject({ known: true });
    forgetOrigins();
    expect(await originSecret(env, key.key_id)).toMatchObject({ origin_id, secret: key.secret });
    expect(await originEntry(env, origin_id)).toMatchObject({ origin_id, alive: true });
    forgetShards();
    expect(await fleet.health()).toEqual({ origins_alive: ORIGINS_PER_SHARD + 1 });
    const listed: string[] = [];
    for (let more = true; more; ) {
      const page = await fleet.listOrigins(listed.at(-1) ?? null, 150);
      listed.push(...page.map((origin) => origin.origin_id));
      more = page.length === 150;
    }
    expect(new Set(listed).size).toBe(ORIGINS_PER_SHARD + 1);
    expect([listed.length, listed.at(-1)]).toEqual([ORIGINS_PER_SHARD + 1, origin_id]);
    expect(await fleet.figures()).toEqual({ origins: { ready: ORIGINS_PER_SHARD + 1 }, instances: {} });
    // Only the one in the second shard builds.
    expect(await fleet.placeBuild("b1", false, [])).toEqual({ origin_id });
    const next = await fleet.rotateKey(origin_id);
    forgetOrigins();
    expect(await originSecret(env, next?.key_id ?? "")).toMatchObject({ origin_id, secret: next?.secret });
    expect(await fleet.removeOrigin(origin_id)).toBe("removed");
  }, 60_000);

  it("are asked for free room before any is asked to make room, from one that the deployment's key chooses", async () => {
    const asked: string[] = [];
    const shard = (n: number, takes: boolean): Partial<FleetShardApi> => ({
      shards: async () => 3,
      place: async ({ evicts }) => {
        asked.push(`${n}${evicts === true ? " evicts" : ""}`);
        if (takes && evicts === true) return { kind: "placed", instance_id: "i", origin_id: idIn(n, "o") };
        const reason = n === 1 ? "no_room" : "no_origin";
        return { kind: "refused", reason, detail: String(n) };
      },
    });
    const fleet = (taker: number) => shardedFleet((n) => shard(n, n === taker) as FleetShardApi);
    expect(await fleet(2).place(aPlace())).toMatchObject({ kind: "placed", origin_id: "2-o" });
    const order = asked.slice(0, 3);
    expect(order.toSorted()).toEqual(["0", "1", "2"]);
    expect(asked[3]).toBe(`${order[0]} evicts`);
    expect(await fleet(9).place(aPlace())).toMatchObject({ kind: "refused", reason: "no_room" });
    const firsts = new Set<string | undefined>();
    for (let n = 0; n < 30; n++) {
      asked.length = 0;
      await fleet(9).place(aPlace({ deployment_key: `d${n}` }));
      firsts.add(asked[0]);
    }
    expect(firsts.size).toBe(3);
  });
});
