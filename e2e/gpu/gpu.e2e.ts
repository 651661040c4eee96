/** On a host with an NVIDIA GPU: the origin offers it, a model gets one device by UUID and computes on it, and a second instance never gets the same. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseNvidiaSmi, probeGpus } from "../../gpu-origin/gpus.ts";
import type { Api, Prediction } from "../lib/api.ts";
import { System } from "../lib/system.ts";

interface Output {
  visible: string;
  devices: string[];
  total: number;
}

let system: System;
let api: Api;

beforeAll(async () => {
  system = await System.start({ models: [], env: { COGWAY_MODELS: `${import.meta.dirname}/model` } });
  ({ api } = system);
});
afterAll(() => system?.stop());

test("nvidia-smi's own words are understood here", async () => {
  const { working } = await probeGpus(process.env);
  expect(working.length).toBeGreaterThan(0);
  expect(parseNvidiaSmi("").working).toEqual([]);
});

test("the hardware list offers the device by its name", async () => {
  const { working } = await probeGpus(process.env);
  const { body } = await api.request<{ sku: string }[]>("GET", "/v1/hardware");
  expect(body.map(({ sku }) => sku)).toContain(working[0]?.sku);
});

test("a model computes on a device of its own", async () => {
  const { working } = await probeGpus(process.env);
  const answer = await api.request<Prediction>("POST", "/v1/models/cogway/model/predictions", {
    body: { input: { value: 7, count: 1000 } },
    headers: { prefer: "wait" },
  });
  expect(answer.body.status).toBe("succeeded");
  const output = answer.body.output as Output;
  expect(output.total).toBe(7_000);
  expect(output.devices).toHaveLength(1);
  expect(working.map((gpu) => gpu.uuid)).toContain(output.visible);
});
