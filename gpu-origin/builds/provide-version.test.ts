import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { InstanceStatus } from "../../schema/origin-protocol.ts";
import type { BuiltVersion, PackageRef } from "../../schema/packages.ts";
import { PreparedVersionSchema } from "../prepared-version.ts";
import { TestOrigin } from "../testing/harness.ts";

const id = "a".repeat(64);
const manifest = `sha256:${"b".repeat(64)}`;

describe("a version that is not here", () => {
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start([]);
    origin.knows("model", { id, slots: 1 });
  });
  afterAll(() => origin.stop());

  const built: BuiltVersion = {
    id,
    cog_version: "0.23.1",
    openapi_schema: { components: { schemas: { Input: {}, Output: {} } } },
    slots: 1,
    memory_bytes: 1,
    hardware: "cpu",
    gpus: 0,
    egress: false,
    idempotent: false,
    prepared: {},
  };
  async function failureOf(from: PackageRef): Promise<InstanceStatus> {
    const instance = await origin.boot("model", ["failed"], 30_000, { version_id: id, package: from });
    return origin.untilState(instance, ["failed"]);
  }

  it("fails its instance with the reason: no package, one of another release, one whose source is gone", async () => {
    const source = { kind: "source" as const, repository: "alice/model", manifest };
    expect((await failureOf(source)).reason).toMatch(/its package could not be had: there is no such thing/);
    origin.edge.registry.packages.set(id, { package: source, version: built });
    expect((await failureOf(source)).reason).toMatch(/another release of Cogway; push the model again/);
    const prepared = {
      environment: { python_version: null, requirements: "", run: [] },
      ...{ ref: "predict.py:Runner", train_ref: null, token_metric: null, output_is_file_list: false, env: {} },
    };
    origin.edge.registry.packages.set(id, { package: source, version: { ...built, prepared } });
    expect((await failureOf(source)).reason).toMatch(/The source could not be fetched: there is no such thing/);
  });

  it("of an image is refused by an origin of processes, which says what its operator has to start", async () => {
    const image = { kind: "image" as const, repository: "alice/model", manifest };
    origin.edge.registry.packages.set(id, { package: image, version: built });
    await expect(failureOf(image)).rejects.toThrow(/COGWAY_DRIVER=docker/);
  });

  it("that an earlier release prepared is read as it was meant", () => {
    const old = {
      id,
      name: "old",
      environment: { python_version: "3.11", requirements: "numpy", run: [] },
      ref: "predict.py:Runner",
      slots: 1,
      memory_bytes: 1,
      idempotent: false,
      token_metric: null,
      output_is_file_list: false,
      env: {},
      schema: {},
    };
    expect(PreparedVersionSchema.parse(old)).toMatchObject({
      ...old,
      ...{ train_ref: null, hardware: "cpu", gpus: 0, egress: false, weights: [], package: null },
    });
  });
});
