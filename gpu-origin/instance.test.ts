/** The life of one instance over a server that is always ready: what real coglet does is told by prediction-runner.test.ts. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import type { StartResult, StartSpec } from "./drivers/driver.ts";
import { FakeDriver, FakeHost } from "./drivers/testing/fake.ts";
import { Instance, type InstanceSpec } from "./instance.ts";
import { createLog } from "./log.ts";

/** Of a state on a machine that does other things as well. */
const WAIT = { timeout: 10_000 };
const SPEC: InstanceSpec = {
  protocol: 1,
  instance_id: "i1",
  deployment_key: "d",
  version_id: "v",
  slots: 1,
  memory_bytes: 1,
  setup_timeout_ms: 10_000,
  launch: { kind: "process", cwd: "/", binDir: "/" },
  env: {},
  args: [],
  cpus: 1,
  devices: [],
};

let coglet: Server;
beforeAll(async () => {
  coglet = createServer((_, response) => response.end(JSON.stringify({ status: "READY" })));
  await new Promise<void>((done) => coglet.listen(0, "127.0.0.1", done));
});
afterAll(() => coglet.close());

class ReadyDriver extends FakeDriver {
  override async start(spec: StartSpec): Promise<StartResult> {
    const result = await super.start(spec);
    if (result.kind === "failed") return result;
    result.record.address = { host: "127.0.0.1", port: (coglet.address() as AddressInfo).port };
    return result;
  }
}

function newInstance(driver: ReadyDriver) {
  const onFirstSetup = vi.fn(async () => {});
  const saveRecord = vi.fn();
  const host = {
    driver,
    log: createLog("silent"),
    onStatus: () => {},
    onFirstSetup,
    saveRecord,
    deleteRecord: () => {},
  };
  return { instance: new Instance(SPEC, host), onFirstSetup, saveRecord };
}

const untilReady = (instance: Instance) => vi.waitFor(() => expect(instance.state).toBe("ready"), WAIT);

it("keeps what its first setup made and nothing later: not that of a restart, nor of a server that served an earlier process", async () => {
  const host = new FakeHost();
  const driver = new ReadyDriver(host);
  const { instance, onFirstSetup, saveRecord } = newInstance(driver);
  instance.start();
  await untilReady(instance);
  expect(onFirstSetup).toHaveBeenCalledTimes(1);
  instance.restart("restarting");
  expect(instance.state).toBe("boot");
  await untilReady(instance);
  expect(onFirstSetup).toHaveBeenCalledTimes(1);

  const next = newInstance(new ReadyDriver(host));
  expect(await next.instance.adopt(saveRecord.mock.lastCall?.[0])).toBe(true);
  next.instance.restart("restarting");
  await untilReady(next.instance);
  expect(next.onFirstSetup).not.toHaveBeenCalled();
  await Promise.all([instance.stop("the test ended", 0), next.instance.stop("the test ended", 0)]);
});
