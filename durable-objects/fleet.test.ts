import { describe, expect, it } from "vitest";
import {
  type InstanceBoot,
  InstanceBootSchema,
  type InstanceStatus,
  ORIGIN_DEAD_AFTER_MS,
  type Register,
} from "../schema/origin-protocol.ts";
import { verifyRequest } from "../schema/request-signature.ts";
import { FleetObject } from "./fleet.ts";
import type { PlaceRequest } from "./fleet-contract.ts";
import { aStatus, envWith, freshName, passTime, stopClockInEachTest, withObject } from "./testing/harness.ts";

/** The token whose hash vitest.config.ts gives to the objects. */
const JOIN_TOKEN = "join-token-of-tests";

function aRegister(change: Partial<Register> = {}): Register {
  return {
    protocol: 1,
    join_token: JOIN_TOKEN,
    url: "http://127.0.0.1:9999",
    incarnation: "first",
    region: "local",
    driver: "process",
    hardware: [{ sku: "cpu", name: "CPU", cpus: 2, memory_bytes: 1_000, gpus: 0 }],
    capacity: { instances: 2, memory_bytes: 1_000 },
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

/** A host that boots what it is told, and the deployments that hear of it. Every request must be signed with a live key. */
class Host {
  secrets = new Map<string, string>();
  booted: InstanceBoot[] = [];
  drained: string[] = [];
  isAway = false;
  hasVersion = true;
  /** answers of deployments to "may it go?" */
  mayGo = true;
  asked: { instance_id: string; even_busy: boolean }[] = [];
  gone: { key: string; instance_ids: string[] }[] = [];
  changed: InstanceStatus[] = [];

  env(): Env {
    return envWith({
      origin: (request) => this.#answer(request),
      deployment: (key) => ({
        evictIdle: async (instance_id, even_busy = false) => {
          this.asked.push({ instance_id, even_busy });
          return this.mayGo;
        },
        instancesGone: async (_origin, instance_ids) => {
          this.gone.push({ key, instance_ids });
        },
        instancesChanged: async (_origin, statuses) => {
          this.changed.push(...statuses);
        },
      }),
    });
  }

  async #answer(request: Request): Promise<Response> {
    if (this.isAway) throw new TypeError("connection refused");
    const path = new URL(request.url).pathname;
    const body = await request.text();
    const verified = verifyRequest(
      { method: request.method, path, body, header: (name) => request.headers.get(name) },
      (keyId) => this.secrets.get(keyId) ?? null,
      Date.now(),
    );
    if (!verified.ok)
      return Response.json({ code: "origin.unauthenticated", detail: verified.reason }, { status: 401 });
    if (path === "/v1/instances") {
      if (!this.hasVersion) return Response.json({ code: "version.not_found", detail: "?" }, { status: 404 });
      const boot = InstanceBootSchema.parse(JSON.parse(body));
      this.booted.push(boot);
      return Response.json(aStatus({ ...boot, state: "boot" }), { status: 202 });
    }
    const instance_id = /^\/v1\/instances\/([^/]+)\/drain$/.exec(path)?.[1] ?? "";
    this.drained.push(instance_id);
    return Response.json(aStatus({ instance_id, state: "draining" }), { status: 202 });
  }
}

interface Tools {
  host: Host;
  originId: string;
  restart: () => FleetObject;
  beat: (instances: InstanceStatus[], incarnation?: string) => Promise<{ known: boolean; unowned: string[] }>;
}

/** A fleet with one origin that has joined. */
function withFleet(test: (fleet: FleetObject, tools: Tools) => Promise<void>): Promise<void> {
  return withObject("FLEETS", freshName(), async (state) => {
    const host = new Host();
    const restart = () => new FleetObject(state as never, host.env());
    const fleet = restart();
    const joined = await fleet.register(aRegister(), null);
    if (!joined.ok || joined.result.key === undefined) throw new Error("the join token must work once");
    host.secrets.set(joined.result.key.key_id, joined.result.key.secret);
    const originId = joined.result.origin_id;
    const beat = (instances: InstanceStatus[], incarnation = "first") =>
      fleet.heartbeat(originId, { incarnation, instances });
    await test(fleet, { host, originId, restart, beat });
  });
}

async function placed(fleet: FleetObject, change: Partial<PlaceRequest> = {}): Promise<string> {
  const result = await fleet.place(aPlace(change));
  if (result.kind !== "placed") throw new Error(`not placed: ${result.detail}`);
  return result.instance_id;
}

stopClockInEachTest();

describe("joining", () => {
  it("guarantees that a token adds one origin, and only the same start of the same process may repeat it", () =>
    withFleet(async (fleet, { originId }) => {
      expect(await fleet.register(aRegister(), null)).toMatchObject({ ok: true, result: { origin_id: originId } });
      expect(await fleet.register(aRegister({ incarnation: "thief" }), null)).toMatchObject({ ok: false });
      expect(await fleet.register(aRegister({ join_token: "wrong" }), null)).toMatchObject({ ok: false });
      expect(await fleet.register(aRegister({ join_token: undefined } as never), null)).toMatchObject({ ok: false });
      expect(await fleet.register(aRegister(), "unknown")).toMatchObject({ ok: false });
      expect(await fleet.health()).toEqual({ origins_alive: 1 });
    }));

  it("guarantees two live keys while one is rotated, and none that was revoked", () =>
    withFleet(async (fleet, { originId }) => {
      const [first] = await fleet.keys();
      const second = await fleet.rotateKey(originId);
      expect((await fleet.keys()).map((key) => key.key_id)).toEqual([second?.key_id, first?.key_id]);
      expect((await fleet.origins())[0]?.key).toEqual(second);
      await fleet.rotateKey(originId);
      expect((await fleet.keys()).map((key) => key.key_id)).not.toContain(first?.key_id);
      for (const key of await fleet.keys()) await fleet.revokeKey(key.key_id);
      expect(await fleet.keys()).toEqual([]);
      expect(await fleet.origins()).toEqual([]);
      expect(await fleet.rotateKey("unknown")).toBeNull();
    }));

  it("guarantees that asking an empty fleet stores nothing", () =>
    withObject("FLEETS", freshName(), async (state) => {
      const fleet = new FleetObject(state as never, envWith({}));
      expect(await fleet.origins()).toEqual([]);
      expect(await fleet.keys()).toEqual([]);
      expect(await fleet.health()).toEqual({ origins_alive: 0 });
      expect(await fleet.heartbeat("x", { incarnation: "y", instances: [] })).toEqual({ known: false, unowned: [] });
      const tables = state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'");
      expect(tables.toArray()).toEqual([]);
    }));
});

describe("heartbeats", () => {
  it("guarantees that another incarnation is unknown, and that what nobody owns is told", () =>
    withFleet(async (fleet, { beat }) => {
      const mine = await placed(fleet);
      const listed = [aStatus({ instance_id: mine }), aStatus({ instance_id: "stray" })];
      expect(await beat(listed)).toEqual({ known: true, unowned: ["stray"] });
      expect(await beat(listed, "second")).toEqual({ known: false, unowned: [] });
      const ending = [
        aStatus({ instance_id: "a", state: "draining" }),
        aStatus({ instance_id: "b", state: "stopped" }),
      ];
      expect((await beat(ending)).unowned).toEqual([]);
    }));

  it("guarantees that an instance which vanished is told as gone once, but not one that may still be booting", () =>
    withFleet(async (fleet, { host, beat }) => {
      const instance = await placed(fleet);
      await beat([]);
      expect(host.gone).toEqual([]);
      await beat([aStatus({ instance_id: instance, state: "boot" })]);
      await beat([]);
      await beat([]);
      expect(host.gone).toEqual([{ key: "version:a", instance_ids: [instance] }]);
      expect(await fleet.place(aPlace({ memory_bytes: 1_000 }))).toMatchObject({ kind: "placed" });
    }));

  it("guarantees that a state which settled is told once more, and a passing one is not", () =>
    withFleet(async (fleet, { host, beat }) => {
      const instance_id = await placed(fleet);
      await beat([aStatus({ instance_id, state: "boot" })]);
      await beat([aStatus({ instance_id, state: "ready" })]);
      expect(host.changed).toEqual([]);
      await beat([aStatus({ instance_id, state: "ready" })]);
      await beat([aStatus({ instance_id, state: "ready" })]);
      expect(host.changed.map((status) => status.state)).toEqual(["ready"]);
    }));
});

describe("lost origins", () => {
  it("guarantees that silence is found by time, its instances are gone, and its return starts empty", () =>
    withFleet(async (fleet, { host, originId, beat }) => {
      const instance_id = await placed(fleet);
      await beat([aStatus({ instance_id })]);
      passTime(ORIGIN_DEAD_AFTER_MS - 1);
      await fleet.alarm();
      expect(host.gone).toEqual([]);
      passTime(1);
      await fleet.alarm();
      expect(host.gone).toEqual([{ key: "version:a", instance_ids: [instance_id] }]);
      expect(await fleet.health()).toEqual({ origins_alive: 0 });
      expect(await fleet.place(aPlace())).toMatchObject({ kind: "refused", reason: "no_origin" });
      expect(await beat([aStatus({ instance_id })])).toEqual({ known: true, unowned: [instance_id] });
      expect(await fleet.health()).toEqual({ origins_alive: 1 });
      expect((await fleet.origins())[0]).toMatchObject({ origin_id: originId, alive: true });
    }));

  it("guarantees that the fleet's own restart gives every origin its full time", () =>
    withFleet(async (_fleet, { host, restart }) => {
      passTime(ORIGIN_DEAD_AFTER_MS * 3);
      const again = restart();
      await again.alarm();
      expect(await again.health()).toEqual({ origins_alive: 1 });
      passTime(ORIGIN_DEAD_AFTER_MS);
      await again.alarm();
      expect(await again.health()).toEqual({ origins_alive: 0 });
      expect(host.gone).toEqual([]);
    }));

  it("guarantees that instances which a restarted origin does not list are gone at once", () =>
    withFleet(async (fleet, { host, originId }) => {
      const kept = await placed(fleet, { memory_bytes: 100 });
      const lost = await placed(fleet, { memory_bytes: 100 });
      const { join_token: _, ...again } = aRegister({
        incarnation: "second",
        instances: [aStatus({ instance_id: kept })],
      });
      expect(await fleet.register(again, originId)).toEqual({ ok: true, result: { origin_id: originId } });
      expect(host.gone).toEqual([{ key: "version:a", instance_ids: [lost] }]);
    }));
});

describe("placement", () => {
  it("guarantees a boot with the room taken before, so that two never share it", () =>
    withFleet(async (fleet, { host, originId }) => {
      const results = await Promise.all([fleet.place(aPlace()), fleet.place(aPlace())]);
      expect(results.map((result) => result.kind).sort()).toEqual(["placed", "refused"]);
      expect(results.find((result) => result.kind === "placed")).toMatchObject({ origin_id: originId });
      expect(host.booted).toMatchObject([{ deployment_key: "version:a", slots: 1, memory_bytes: 600 }]);
    }));

  it("guarantees that the room comes back when the origin could not be reached", () =>
    withFleet(async (fleet, { host }) => {
      host.isAway = true;
      expect(await fleet.place(aPlace())).toMatchObject({ kind: "refused", reason: "no_room" });
      host.isAway = false;
      expect(await fleet.place(aPlace())).toMatchObject({ kind: "placed" });
    }));

  it("guarantees that a version which no origin can boot is told apart from a lack of room", () =>
    withFleet(async (fleet, { host }) => {
      host.hasVersion = false;
      expect(await fleet.place(aPlace())).toEqual({
        kind: "refused",
        reason: "no_version",
        detail: "version.not_found",
      });
      host.hasVersion = true;
      expect(await fleet.place(aPlace())).toMatchObject({ kind: "placed" });
    }));

  it("guarantees that an idle instance of another deployment makes room, if its owner agrees", () =>
    withFleet(async (fleet, { host, beat }) => {
      const instance_id = await placed(fleet);
      await beat([aStatus({ instance_id })]);
      host.mayGo = false;
      expect(await fleet.place(aPlace({ deployment_key: "version:b" }))).toMatchObject({ reason: "no_room" });
      expect(host.drained).toEqual([]);
      host.mayGo = true;
      expect(await fleet.place(aPlace({ deployment_key: "version:b" }))).toMatchObject({ kind: "placed" });
      expect(host.drained).toEqual([instance_id]);
      expect(host.asked).toEqual([
        { instance_id, even_busy: false },
        { instance_id, even_busy: false },
      ]);
    }));

  it("guarantees that a busy instance is asked only for a starving queue, and keeps its room until it ends", () =>
    withFleet(async (fleet, { host, beat }) => {
      const instance_id = await placed(fleet);
      await beat([aStatus({ instance_id, slots_busy: 1 })]);
      const other = { deployment_key: "version:b" };
      expect(await fleet.place(aPlace(other))).toMatchObject({ reason: "no_room" });
      expect(host.asked).toEqual([]);
      expect(await fleet.place(aPlace({ ...other, is_starving: true }))).toMatchObject({ reason: "no_room" });
      expect(host.asked).toEqual([{ instance_id, even_busy: true }]);
      expect(host.drained).toEqual([instance_id]);
      await beat([aStatus({ instance_id, slots_busy: 1, state: "draining" })]);
      expect(await fleet.place(aPlace(other))).toMatchObject({ reason: "no_room" });
      await beat([aStatus({ instance_id, state: "stopped" })]);
      expect(await fleet.place(aPlace(other))).toMatchObject({ kind: "placed" });
    }));
});

describe("what origins run", () => {
  const DOCKER = { runs: { packages: ["source" as const, "image" as const], untrusted: true } };
  const MANIFEST = `sha256:${"a".repeat(64)}`;

  it("guarantees that a package goes only where it runs, with all that its instance needs to know", () =>
    withFleet(async (fleet, { host, originId, restart }) => {
      const request = aPlace({
        package: { kind: "source", repository: "alice/model", manifest: MANIFEST },
        is_trusted: false,
        egress: true,
      });
      expect(await fleet.place(request)).toMatchObject({ kind: "refused", reason: "no_origin" });
      await fleet.register(aRegister(DOCKER), originId);
      // What it registered is stored: the fleet's own restart changes nothing.
      const again = restart();
      expect(await again.place(request)).toMatchObject({ kind: "placed" });
      const { package: from, is_trusted, egress } = request;
      expect(host.booted[0]).toMatchObject({ package: from, is_trusted, egress });
    }));

  it("guarantees that devices are counted for each instance, also when one fails between heartbeats", () =>
    withFleet(async (fleet, { originId, host, beat }) => {
      const capacity = { instances: 4, memory_bytes: 4_000, gpus: 2 };
      await fleet.register(aRegister({ ...DOCKER, capacity }), originId);
      const first = await placed(fleet, { gpus: 2 });
      expect(host.booted[0]?.gpus).toBe(2);
      expect(await fleet.place(aPlace({ gpus: 1 }))).toMatchObject({ reason: "no_room" });
      expect(await fleet.place(aPlace())).toMatchObject({ kind: "placed" });
      await fleet.heartbeat(originId, { incarnation: "first", instances: [], capacity: { ...capacity, gpus: 1 } });
      await beat([aStatus({ instance_id: first, state: "stopped" })]);
      expect(await fleet.place(aPlace({ gpus: 2 }))).toMatchObject({ reason: "no_origin" });
      expect(await fleet.place(aPlace({ gpus: 1 }))).toMatchObject({ kind: "placed" });
    }));

  it("guarantees that builds are spread over the origins that build, and that their ends count", () =>
    withFleet(async (fleet, { originId }) => {
      expect(await fleet.placeBuild("b1", true, [])).toMatchObject({ refused: expect.any(String) });
      await fleet.register(aRegister(DOCKER), originId);
      expect(await fleet.placeBuild("b1", false, [])).toEqual({ origin_id: originId });
      expect(await fleet.placeBuild("b1", false, [originId])).toMatchObject({ refused: expect.any(String) });
      await fleet.buildEnded("b1", "any");
    }));

  it("guarantees that the tables of an earlier release are opened", () =>
    withObject("FLEETS", freshName(), async (state) => {
      const { sql } = state.storage;
      sql.exec(`
        CREATE TABLE origins (origin_id TEXT PRIMARY KEY, url TEXT NOT NULL, incarnation TEXT NOT NULL, region TEXT NOT NULL, driver TEXT NOT NULL,
          hardware TEXT NOT NULL, capacity TEXT NOT NULL, is_lost INTEGER NOT NULL);
        CREATE TABLE keys (key_id TEXT PRIMARY KEY, origin_id TEXT NOT NULL, secret TEXT NOT NULL, created_at INTEGER NOT NULL);
        CREATE TABLE join_tokens (token_sha256 TEXT PRIMARY KEY, origin_id TEXT NOT NULL, incarnation TEXT NOT NULL);
        CREATE TABLE instances (instance_id TEXT PRIMARY KEY, origin_id TEXT NOT NULL, deployment_key TEXT NOT NULL, version_id TEXT NOT NULL,
          memory_bytes INTEGER NOT NULL, placed_at INTEGER NOT NULL, is_draining INTEGER NOT NULL);
        CREATE TABLE known_versions (origin_id TEXT NOT NULL, version_id TEXT NOT NULL, placed_at INTEGER NOT NULL, PRIMARY KEY (origin_id, version_id));
      `);
      const { url, incarnation, hardware, capacity } = aRegister();
      sql.exec(
        "INSERT INTO origins VALUES ('old', ?, ?, 'local', 'process', ?, ?, 0)",
        ...[url, incarnation, JSON.stringify(hardware), JSON.stringify(capacity)],
      );
      sql.exec("INSERT INTO keys VALUES ('k', 'old', 'c2VjcmV0', 0)");
      const host = new Host();
      host.secrets.set("k", "c2VjcmV0");
      const fleet = new FleetObject(state as never, host.env());
      expect(await fleet.health()).toEqual({ origins_alive: 1 });
      expect(await fleet.place(aPlace())).toMatchObject({ kind: "placed", origin_id: "old" });
      expect(await fleet.heartbeat("old", { incarnation, instances: [] })).toMatchObject({ known: true });
    }));
});
