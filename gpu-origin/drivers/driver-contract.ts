/** What every driver guarantees, as tests. A driver's own test file calls this with ways to make it and to make an environment that starts. */
import { expect, it } from "vitest";
import { newId } from "../../schema/ids.ts";
import type { Launch } from "../builds/builder.ts";
import type { Driver, StartSpec, Watch } from "./driver.ts";

const NOBODY: Watch = { onLine: () => {}, onExit: () => {} };

export interface DriverSetup {
  /** each call gives a new driver over the same host, as after a restart of the origin */
  createDriver: () => Driver;
  /** with which a start succeeds */
  launch: () => Launch;
  /** with which it fails */
  missing: () => Launch;
  /** the handle of something else that has the same number or name */
  reused: (handle: string) => string;
}

export function describeDriverContract(setup: DriverSetup): void {
  const aSpec = (change: Partial<StartSpec> = {}): StartSpec => ({
    instance_id: newId(16),
    version_id: "v",
    deployment_key: "d",
    launch: setup.launch(),
    env: {},
    args: [],
    memory_bytes: 256 * 1024 ** 2,
    cpus: 1,
    gpus: [],
    egress: false,
    is_trusted: true,
    watch: NOBODY,
    ...change,
  });

  it("starts an instance, lists it, and stops it with all it started; its exit is told once", async () => {
    const driver = setup.createDriver();
    let exits = 0;
    const spec = aSpec({ watch: { ...NOBODY, onExit: () => exits++ } });
    const started = await driver.start(spec);
    expect(started).toMatchObject({ kind: "started", record: { instance_id: spec.instance_id, version_id: "v" } });
    expect((await driver.list()).map((record) => record.instance_id)).toEqual([spec.instance_id]);
    expect(await driver.memoryBytes(spec.instance_id)).toBeGreaterThan(0);
    expect(await driver.stop(spec.instance_id, 500)).toEqual({ kind: "stopped" });
    expect(await driver.list()).toEqual([]);
    await expect.poll(() => exits).toBe(1);
    expect(await driver.stop(spec.instance_id, 0)).toEqual({ kind: "gone" });
  });

  it("answers a failed start as a value", async () => {
    const started = await setup.createDriver().start(aSpec({ launch: setup.missing() }));
    expect(started).toMatchObject({ kind: "failed", reason: "spawn" });
  });

  it("adopts what an earlier process started, and can stop it", async () => {
    const started = await setup.createDriver().start(aSpec());
    if (started.kind !== "started") throw new Error(started.detail);
    const next = setup.createDriver();
    expect(await next.adopt(started.record, NOBODY)).toEqual({ kind: "adopted" });
    expect(await next.stop(started.record.instance_id, 0)).toEqual({ kind: "stopped" });
    expect(await setup.createDriver().adopt(started.record, NOBODY)).toEqual({ kind: "gone" });
  });

  it("never takes another process for its own because the number is the same", async () => {
    const driver = setup.createDriver();
    const started = await driver.start(aSpec());
    if (started.kind !== "started") throw new Error(started.detail);
    const reused = { ...started.record, handle: setup.reused(started.record.handle) };
    expect(await setup.createDriver().adopt(reused, NOBODY)).toEqual({ kind: "gone" });
    expect(await driver.list()).toHaveLength(1);
    await driver.stop(started.record.instance_id, 0);
  });
}
