import { expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import { GpuAllocator } from "./gpus.ts";
import { type LaunchParts, launchInstance } from "./instance-launch.ts";
import type { PreparedVersion } from "./prepared-version.ts";

const version = { train_ref: null, env: {}, ref: null } as PreparedVersion;
const boot = {
  protocol: 1 as const,
  instance_id: newId(16),
  deployment_key: "d",
  version_id: "v",
  slots: 1,
  memory_bytes: 1,
  setup_timeout_ms: 1_000,
  gpus: 1,
};

it("gives back the device and what the builder holds where a later step fails or throws", async () => {
  const working = [{ index: 0, uuid: "GPU-0", name: "NVIDIA L40S", memory_bytes: 1, sku: "gpu-l40s" }];
  const gpus = new GpuAllocator(async () => ({ working, broken: [] }));
  await gpus.refresh();
  let held = 0;
  const launch = { kind: "process" as const, cwd: "/", binDir: "/" };
  const parts = (open: LaunchParts["caches"]["open"]): LaunchParts => ({
    provideVersion: async () => ({ kind: "ready" as const, version }),
    builder: {
      launch: async () => {
        held += 1;
        const release = (): void => {
          held -= 1;
        };
        return { kind: "ready" as const, launch, release };
      },
    },
    weights: { hold: () => Promise.reject(new Error("not asked")) },
    gpus,
    caches: { open },
    cpus: 1,
  });
  const options = { onProgress: () => {}, signal: new AbortController().signal };
  const full = () => Promise.reject(new Error("no space left on device"));
  await expect(launchInstance(boot, parts(full), options)).rejects.toThrow("no space left");
  expect(held).toBe(0);

  const cache = { env: {}, launch, keep: async () => {}, remove: () => {} };
  const open = async () => cache;
  const first = await launchInstance(boot, parts(open), options);
  expect(first).toMatchObject({ kind: "ready", launched: { devices: ["GPU-0"] } });
  expect(await launchInstance({ ...boot, instance_id: newId(16) }, parts(open), options)).toMatchObject({
    kind: "failed",
    detail: expect.stringContaining("too few free GPUs"),
  });
  if (first.kind === "ready") first.launched.release();
  expect(held).toBe(0);
});
