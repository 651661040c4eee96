/** A real DeploymentObject over real SQLite, between predictions and a fleet that are only pretended. */
import { expect, vi } from "vitest";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import type { AccountApi } from "../account-contract.ts";
import { DeploymentObject } from "../deployment.ts";
import type { EnqueueRequest, Lease, LeaseKey, Release } from "../deployment-contract.ts";
import type { PlaceRequest, PlaceResult } from "../fleet-contract.ts";
import { aDocument, anEnqueue, aSpec, aStatus, envWith, freshName, withObject } from "./harness.ts";

/** What the objects around a deployment saw and answer. */
export class Surroundings {
  granted: Lease[] = [];
  refused: { prediction_id: string; code: string; detail: string }[] = [];
  canceled: { prediction_id: string; account_id: string }[] = [];
  /** predictions that do not want what they are granted */
  readonly ended = new Set<string>();
  /** predictions that do not know of their lease any more */
  readonly forgotten = new Set<string>();
  predictionsAway = false;
  /** predictions do not answer whether they hold their leases */
  leasesHeldAway = false;
  placements: PlaceRequest[] = [];
  drained: { instance_id: string; reason: string }[] = [];
  /** instances of which the fleet has nothing any more */
  readonly gone = new Set<string>();
  placeAnswer: (n: number) => PlaceResult = (n) => ({
    kind: "placed",
    instance_id: `instance${n}`,
    origin_id: "origin1",
  });
  /** whoever pays for instances that are paid as long as they live */
  account: Partial<AccountApi> = {};
  /** how long predictions take to answer that they are refused */
  whenRefused: () => Promise<void> = async () => undefined;
  /** what a prediction does when it is canceled */
  whenCanceled: (prediction_id: string) => Promise<PredictionDocument | null> = async (id) => aDocument({ id });

  env(): Env {
    return envWith({
      account: this.account,
      predictions: {
        leasesGranted: async (grants: Lease[]) => {
          if (this.predictionsAway) throw new Error("away");
          this.granted.push(...grants);
          return { declined: grants.filter((grant) => this.ended.has(grant.prediction_id)) };
        },
        leasesRefused: async (refusals) => {
          if (this.predictionsAway) throw new Error("away");
          this.refused.push(...refusals);
          await this.whenRefused();
        },
        leasesHeld: async (keys: LeaseKey[]) => {
          if (this.leasesHeldAway) throw new Error("away");
          return keys.map((key) => !this.forgotten.has(key.prediction_id));
        },
        cancel: async (prediction_id, account_id) => {
          this.canceled.push({ prediction_id, account_id });
          return this.whenCanceled(prediction_id);
        },
      },
      fleet: {
        place: async (request) => {
          this.placements.push(request);
          return this.placeAnswer(this.placements.length);
        },
        drain: async (_origin, instance_id, reason) => {
          this.drained.push({ instance_id, reason });
          return !this.gone.has(instance_id);
        },
      },
    });
  }

  grantedIds(): string[] {
    return this.granted.map((lease) => lease.prediction_id);
  }

  drainedIds(): string[] {
    return this.drained.map(({ instance_id }) => instance_id);
  }
}

export interface Tools {
  around: Surroundings;
  /** drops the object's memory */
  restart: () => DeploymentObject;
  state: DurableObjectState;
}

export function withDeployment(test: (deployment: DeploymentObject, tools: Tools) => Promise<void>): Promise<void> {
  return withObject("DEPLOYMENTS", freshName(), async (state) => {
    const around = new Surroundings();
    const restart = () => new DeploymentObject(state as never, around.env());
    await test(restart(), { around, restart, state });
  });
}

/** A deployment with one ready instance of `slots` slots. */
export function withReady(
  slots: number,
  test: (deployment: DeploymentObject, tools: Tools) => Promise<void>,
): Promise<void> {
  return withDeployment(async (deployment, tools) => {
    const first = anEnqueue({ spec: aSpec({ slots }) });
    await deployment.enqueue(first);
    await vi.waitFor(() => expect(tools.around.placements).toHaveLength(1));
    await deployment.instancesChanged("origin1", [aStatus({ slots })]);
    await vi.waitFor(() => expect(tools.around.granted).toHaveLength(1));
    await deployment.release([{ ...first, ran_ms: 100 }]);
    tools.around.granted = [];
    await test(deployment, tools);
  });
}

/** The end of what was enqueued. */
export function keyOf({ prediction_id, attempt }: EnqueueRequest): Release {
  return { prediction_id, attempt, ran_ms: 1_000 };
}
