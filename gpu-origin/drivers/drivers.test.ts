import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../../schema/ids.ts";
import type { InstanceStatus } from "../../schema/origin-protocol.ts";
import { Environments } from "../environments.ts";
import { Instance } from "../instance.ts";
import { createLog } from "../log.ts";
import { DRIVER_MODEL } from "../testing/driver-model.ts";
import { TEST_CACHE, temporaryFolder, testModel } from "../testing/harness.ts";
import { describeDriverContract } from "./driver-contract.ts";
import { ProcessDriver } from "./process.ts";
import { FakeDriver, FakeHost } from "./testing/fake.ts";

describe("the fake driver", () => {
  const host = new FakeHost();
  describeDriverContract({
    createDriver: async () => new FakeDriver(host),
    env: {},
    runsCoglet: false,
    launch: () => ({ kind: "process", cwd: "/", binDir: "/bin" }),
    missing: () => ({ kind: "process", cwd: "/", binDir: "/missing/bin" }),
    reused: (handle) => `${handle}0`,
  });
});

describe("the process driver", () => {
  const folder = temporaryFolder();
  const model = join(folder.path, "model");
  let binDir = "";
  beforeAll(async () => {
    const spec = { python_version: null, requirements: "", run: [] };
    const made = await new Environments(TEST_CACHE, process.env).ensure(spec, folder.path);
    if (made.kind !== "ready") throw new Error(made.kind === "failed" ? made.detail : made.kind);
    binDir = made.binDir;
    for (const [name, content] of Object.entries(DRIVER_MODEL)) {
      mkdirSync(dirname(join(model, name)), { recursive: true });
      writeFileSync(join(model, name), content);
    }
  }, 240_000);
  afterAll(() => folder.remove());
  const createDriver = (): ProcessDriver => new ProcessDriver(join(folder.path, "tmp"), process.env);

  describeDriverContract({
    createDriver: async () => createDriver(),
    launch: () => ({ kind: "process", cwd: model, binDir }),
    env: { COG_PREDICT_TYPE_STUB: "predict.py:Runner" },
    runsCoglet: true,
    missing: () => ({ kind: "process", cwd: model, binDir: "/missing/bin" }),
    reused: (handle) => handle.replace(/:.*/, ":1"),
  });

  it("trap 5: an environment whose python lacks coglet is found by time, not waited for", async () => {
    // The server runs on a python that has coglet; the bare word `python`, as which it starts its worker, is one that has not.
    const bare = join(folder.path, "bare");
    mkdirSync(bare);
    const host = /^home = (.*)$/m.exec(readFileSync(join(binDir, "..", "pyvenv.cfg"), "utf8"))?.[1] ?? "/usr/bin";
    const script = `#!/bin/sh\nif [ "$1" = "-m" ]; then exec ${binDir}/python "$@"; else exec ${host}/python3 "$@"; fi\n`;
    writeFileSync(join(bare, "python"), script, { mode: 0o755 });
    const statuses: InstanceStatus[] = [];
    const instance = new Instance(
      {
        protocol: 1,
        instance_id: newId(16),
        deployment_key: "d",
        version_id: "v",
        slots: 1,
        memory_bytes: 0,
        setup_timeout_ms: 60_000,
        launch: { kind: "process", cwd: testModel("noop"), binDir: bare },
        cpus: 1,
        devices: [],
        env: { COG_PREDICT_TYPE_STUB: "predict.py:Runner" },
        args: [],
      },
      {
        driver: createDriver(),
        log: createLog("silent"),
        onStatus: (status) => statuses.push(status),
        saveRecord: () => {},
        deleteRecord: () => {},
      },
    );
    instance.start();
    await expect.poll(() => statuses.at(-1)?.state, { timeout: 15_000 }).toBe("failed");
    expect(statuses.at(-1)?.reason).toContain("worker");
  });
});
