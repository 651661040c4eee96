/** What every driver guarantees, as tests. A driver's own test file calls this with ways to make it and to make what it starts. */
import { afterEach, describe, expect, it } from "vitest";
import { newId } from "../../schema/ids.ts";
import type { Launch } from "../builds/builder.ts";
import { CogClient } from "../cog-client.ts";
import type { Driver, Exit, InstanceRecord, StartSpec, Watch } from "./driver.ts";

const NOBODY: Watch = { onLine: () => {}, onExit: () => {} };
const READY_TIMEOUT_MS = 30_000;
const EXIT_TIMEOUT_MS = 10_000;

export interface DriverSetup {
  /** each call gives a new driver over the same host, as after a restart of the origin */
  createDriver: () => Promise<Driver>;
  /** with which a start succeeds: a model of one slot that sleeps for as many seconds as its input `seconds` says */
  launch: () => Launch;
  env: Record<string, string>;
  /** with which it fails */
  missing: () => Launch;
  /** the handle of something else that has the same number or name */
  reused: (handle: string) => string;
  /** false where nothing really runs */
  runsCoglet: boolean;
}

export function describeDriverContract(setup: DriverSetup): void {
  const drivers: Driver[] = [];
  const create = async (): Promise<Driver> => {
    const driver = await setup.createDriver();
    expect(await driver.check()).toBeNull();
    drivers.push(driver);
    return driver;
  };
  const aSpec = (change: Partial<StartSpec> = {}): StartSpec => ({
    instance_id: newId(16),
    version_id: "v",
    deployment_key: "d",
    launch: setup.launch(),
    env: setup.env,
    args: [],
    memory_bytes: 256 * 1024 ** 2,
    cpus: 1,
    gpus: [],
    egress: false,
    is_trusted: true,
    watch: NOBODY,
    ...change,
  });
  const started = async (driver: Driver, change: Partial<StartSpec> = {}): Promise<InstanceRecord> => {
    const spec = aSpec(change);
    expect(await driver.filesAddress(spec)).toMatchObject({ kind: "ready" });
    const result = await driver.start(spec);
    if (result.kind === "failed") throw new Error(result.detail);
    return result.record;
  };
  const end = async (driver: Driver, { instance_id }: InstanceRecord): Promise<void> => {
    await driver.stop(instance_id, 0);
    await driver.release(instance_id);
  };
  /** Closes the driver as a killed origin does: what runs goes on. */
  const restarted = async (driver: Driver): Promise<Driver> => {
    await driver.close();
    return create();
  };

  afterEach(async () => {
    const [last] = drivers.slice(-1);
    await last?.reap(new Set());
    for (const driver of drivers.splice(0)) await driver.close();
  });

  it("starts an instance, lists it, and stops it with all it started; its exit is told once", async () => {
    const driver = await create();
    const exits: Exit[] = [];
    const record = await started(driver, { watch: { ...NOBODY, onExit: (exit) => exits.push(exit) } });
    expect(record).toMatchObject({ version_id: "v", deployment_key: "d", gpus: [] });
    expect(await driver.list()).toEqual([record]);
    expect(await driver.memoryBytes(record.instance_id)).toBeGreaterThan(0);
    expect(driver.ranOutOfMemory(record.instance_id)).toBe(false);
    expect(await driver.stop(record.instance_id, 500)).toEqual({ kind: "stopped" });
    expect(await driver.list()).toEqual([]);
    await expect.poll(() => exits.length, { timeout: EXIT_TIMEOUT_MS }).toBe(1);
    expect(await driver.stop(record.instance_id, 0)).toEqual({ kind: "gone" });
    await driver.release(record.instance_id);
    expect(exits).toHaveLength(1);
    expect(await driver.memoryBytes(record.instance_id)).toBeNull();
  });

  it("pauses and resumes what runs, stops what is paused, and says when there is nothing to pause", async () => {
    const driver = await create();
    const record = await started(driver);
    expect(await driver.pause(record.instance_id)).toBe(true);
    expect(await driver.resume(record.instance_id)).toBe(true);
    expect(await driver.pause(record.instance_id)).toBe(true);
    expect(await driver.stop(record.instance_id, 0)).toEqual({ kind: "stopped" });
    expect(await driver.pause(record.instance_id)).toBe(false);
    expect(await driver.resume(record.instance_id)).toBe(false);
    await driver.release(record.instance_id);
  });

  it("answers a failed start as a value, and leaves nothing of it", async () => {
    const driver = await create();
    expect(await driver.start(aSpec({ launch: setup.missing() }))).toMatchObject({ kind: "failed", reason: "spawn" });
    expect(await driver.list()).toEqual([]);
    expect(await driver.reap(new Set())).toBe(0);
  });

  it("starts an instance anew under the same id", async () => {
    const driver = await create();
    const first = await started(driver);
    await driver.stop(first.instance_id, 0);
    const second = await started(driver, { instance_id: first.instance_id });
    expect(second.handle).not.toBe(first.handle);
    expect(await driver.list()).toEqual([second]);
    await end(driver, second);
  });

  it("adopts what an earlier process started, and can stop it; its exit is told once", async () => {
    const record = await started(await create());
    const next = await restarted(drivers[0] ?? (await create()));
    let exits = 0;
    expect(await next.adopt(record, { ...NOBODY, onExit: () => exits++ })).toEqual({ kind: "adopted" });
    expect(await next.list()).toEqual([record]);
    expect(await next.stop(record.instance_id, 0)).toEqual({ kind: "stopped" });
    await expect.poll(() => exits, { timeout: EXIT_TIMEOUT_MS }).toBe(1);
    await next.release(record.instance_id);
    expect(await (await restarted(next)).adopt(record, NOBODY)).toEqual({ kind: "gone" });
    expect(exits).toBe(1);
  });

  it("ends what nobody knows, and keeps what somebody does", async () => {
    const driver = await create();
    const [known, unknown] = [await started(driver), await started(driver)];
    expect(await driver.reap(new Set([known.instance_id]))).toBe(1);
    expect(await driver.list()).toEqual([known]);
    expect(await driver.stop(unknown.instance_id, 0)).toEqual({ kind: "gone" });
    await end(driver, known);
  });

  it("never takes another's for its own because the number or name is the same", async () => {
    const driver = await create();
    const record = await started(driver);
    const reused = { ...record, handle: setup.reused(record.handle) };
    expect(await (await create()).adopt(reused, NOBODY)).toEqual({ kind: "gone" });
    expect(await driver.list()).toHaveLength(1);
    await end(driver, record);
  });

  if (!setup.runsCoglet) return;
  describe("with coglet", () => {
    const ready = async (record: InstanceRecord): Promise<CogClient> => {
      const client = new CogClient(record.address);
      const status = async (): Promise<string | undefined> => (await client.health())?.status;
      await expect.poll(status, { timeout: READY_TIMEOUT_MS, interval: 50 }).toBe("READY");
      return client;
    };

    it("answers at its address, in as many slots as it has, and tells its lines", async () => {
      const driver = await create();
      const lines: string[] = [];
      const record = await started(driver, { watch: { ...NOBODY, onLine: (line) => lines.push(line) } });
      const client = await ready(record);
      expect(driver.isWorkerAlive(record.instance_id)).toBe(true);
      const left = new AbortController();
      const running = client.predict("a1", { seconds: 30 }, () => {}, left.signal);
      await expect.poll(async () => (await client.health())?.status).toBe("BUSY");
      expect(await client.predict("b1", { seconds: 0 }, () => {}, left.signal)).toEqual({ kind: "busy" });
      left.abort();
      expect(await running).toMatchObject({ kind: "broken" });
      expect(lines.some((line) => line.includes("coglet"))).toBe(true);
      await end(driver, record);
    });

    it("stands still while it is paused, and answers as before within half a second of being resumed", async () => {
      const driver = await create();
      const record = await started(driver);
      const client = await ready(record);
      expect(await driver.pause(record.instance_id)).toBe(true);
      expect(await client.health(1_000)).toBeNull();
      const began = performance.now();
      expect(await driver.resume(record.instance_id)).toBe(true);
      expect((await client.health(READY_TIMEOUT_MS))?.status).toBe("READY");
      expect(performance.now() - began).toBeLessThan(500);
      const kinds: string[] = [];
      await client.predict("a1", { seconds: 0 }, ({ type }) => kinds.push(type), new AbortController().signal);
      expect(kinds).toContain("completed");
      await end(driver, record);
    });

    it("is asked to end first, and ended by force when it does not", async () => {
      const driver = await create();
      const lines: string[] = [];
      const record = await started(driver, { watch: { ...NOBODY, onLine: (line) => lines.push(line) } });
      const client = await ready(record);
      void client.predict("a1", { seconds: 60 }, () => {}, new AbortController().signal);
      await expect.poll(async () => (await client.health())?.status).toBe("BUSY");
      await driver.stop(record.instance_id, 1_000);
      expect(lines.join("\n")).toContain("SIGTERM");
      expect(await client.health(1_000)).toBeNull();
      await driver.release(record.instance_id);
    });

    it("adopts one that goes on, with its lines and its end", async () => {
      const first = await create();
      const record = await started(first);
      await ready(record);
      const next = await restarted(first);
      const lines: string[] = [];
      let exits = 0;
      const watch: Watch = { onLine: (line) => lines.push(line), onExit: () => exits++ };
      expect(await next.adopt(record, watch)).toEqual({ kind: "adopted" });
      const client = await ready(record);
      const kinds: string[] = [];
      await client.predict("a1", { seconds: 0 }, ({ type }) => kinds.push(type), new AbortController().signal);
      expect(kinds).toContain("completed");
      await fetch(`http://${record.address.host}:${record.address.port}/shutdown`, { method: "POST" });
      await expect.poll(() => exits, { timeout: EXIT_TIMEOUT_MS }).toBe(1);
      expect(lines.length).toBeGreaterThan(0);
      expect(await next.list()).toEqual([]);
      await next.release(record.instance_id);
    });
  });
}
