/** Where objects are made: all that a prediction passes through carry the hint of this deployment's region. */
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { newPredictionId } from "../schema/ids.ts";
import { accountStub, deploymentStub, fleetShard, predictionStub } from "./stubs.ts";

const id = newPredictionId(env.SIGNING_SECRET, 8);

/** The options of each stub that is made with this setting. */
function optionsWith(hint: string): unknown[] {
  const seen: unknown[] = [];
  const namespace = { getByName: (_name: string, options: unknown) => seen.push(options) };
  const bindings = {
    LOCATION_HINT: hint,
    PREDICTIONS: namespace,
    ACCOUNTS: namespace,
    DEPLOYMENTS: namespace,
    FLEETS: namespace,
  } as unknown as Env;
  predictionStub(bindings, id);
  accountStub(bindings, "account");
  deploymentStub(bindings, "version:x");
  fleetShard(bindings, 0);
  return seen;
}

describe("the location hint", () => {
  it("goes with every object that a prediction passes through", () => {
    expect(optionsWith("weur")).toEqual(Array.from({ length: 4 }, () => ({ locationHint: "weur" })));
  });

  it("is left out when the setting is empty, as it is by default", () => {
    expect(env.LOCATION_HINT).toBe("");
    expect(optionsWith("")).toEqual([{}, {}, {}, {}]);
  });

  it("is taken by the runtime, and names the same object", async () => {
    const hinted = { ...env, LOCATION_HINT: "weur" };
    await expect(predictionStub(hinted, id).leasesHeld([{ prediction_id: id, attempt: 1 }])).resolves.toEqual([false]);
    const objects = [hinted, env].map(
      (bindings) => deploymentStub(bindings, "version:x") as unknown as DurableObjectStub,
    );
    expect(objects[0]?.id.toString()).toBe(objects[1]?.id.toString());
  });
});
