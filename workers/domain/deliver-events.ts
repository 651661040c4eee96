/** Hands an origin's batch to the objects that own its parts, all at once. An object that fails costs its own part alone, which is sent again. */
import { deploymentStub, predictionStub } from "../../durable-objects/stubs.ts";
import { isPredictionId, predictionObjectName } from "../../schema/ids.ts";
import type { AttemptAck, AttemptBatch, EventBatch } from "../../schema/origin-protocol.ts";
import type { Edge } from "../env.ts";

export async function deliverEvents(
  { env, settings }: Edge,
  batch: EventBatch,
  originId: string,
): Promise<AttemptAck[]> {
  const { known = [], unknown = [] } = Object.groupBy(batch.attempts, (attempt) =>
    isPredictionId(attempt.prediction_id, settings.signingSecret) ? "known" : "unknown",
  );
  const byObject = Map.groupBy(known, (attempt) => predictionObjectName(attempt.prediction_id));
  const byDeployment = Map.groupBy(batch.instances, (instance) => instance.deployment_key);
  const told = [...byDeployment].map(async ([key, instances]) => {
    try {
      await deploymentStub(env, key).instancesChanged(originId, instances);
    } catch (error) {
      // Heartbeats carry the states too, and repair what got lost.
      report("instance states were not delivered", error);
    }
  });
  const [acks] = await Promise.all([
    Promise.all([...byObject].map(([object, attempts]) => applyPart(env, object, attempts, originId))),
    Promise.all(told),
  ]);
  return [...acks.flat(), ...unknown.map((attempt) => ack(attempt, "unknown"))];
}

async function applyPart(env: Env, object: string, attempts: AttemptBatch[], originId: string): Promise<AttemptAck[]> {
  try {
    return await predictionStub(env, object).applyEvents(attempts, originId);
  } catch (error) {
    report("events were not stored", error);
    return attempts.map((attempt) => ack(attempt, "retry"));
  }
}

/** An acknowledgement of nothing. */
function ack({ prediction_id, attempt }: AttemptBatch, outcome: "retry" | "unknown"): AttemptAck {
  return { prediction_id, attempt, through_i: -1, outcome };
}

function report(message: string, error: unknown): void {
  console.error(JSON.stringify({ level: "error", message, error: String(error) }));
}
