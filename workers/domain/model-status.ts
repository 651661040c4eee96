/** How one model is doing right now. */
import type { z } from "@hono/zod-openapi";
import type { SetupReport } from "../../durable-objects/deployment-contract.ts";
import { errorClass } from "../../durable-objects/deployment-setups.ts";
import { deploymentStub } from "../../durable-objects/stubs.ts";
import type { StatusPageSchema } from "../../schema/api/status.ts";
import type { Caller, Edge } from "../env.ts";
import { findAccountId } from "../storage/accounts.ts";
import type { CatalogModel } from "../storage/models.ts";
import { mayPush } from "./model-access.ts";
import { sharedRunSpec } from "./run-spec.ts";

type Status = z.infer<typeof StatusPageSchema>["results"][number];

export async function modelStatus(edge: Edge, caller: Caller, { model, latest }: CatalogModel): Promise<Status> {
  const name = `${model.owner}/${model.name}`;
  const isInside = caller.scopes.includes("admin") || mayPush(caller, model.owner);
  const state = model.paused_reason === null ? model.state : "paused";
  const reason = model.paused_reason ?? (isInside ? model.state_reason : null);
  if (latest === null) {
    const nothing = { queue_length: 0, running: 0, instances: {}, wanted_instances: 0, last_error: null };
    return { model: name, version: null, state, reason, ...nothing };
  }
  // A private model has instances for each account that runs it: its owner's are shown, and to others their own.
  const account = isInside ? ((await findAccountId(edge.env.DB, model.owner)) ?? caller.account_id) : caller.account_id;
  const { deployment_key } = await sharedRunSpec(edge, latest, account);
  const deployment = deploymentStub(edge.env, deployment_key);
  const [described, reports] = await Promise.all([deployment.describe(), deployment.setupReports()]);
  const bad = reports.find((report) => report.state === "failed" || report.state === "stopped");
  return {
    model: name,
    version: latest.id,
    state,
    reason,
    queue_length: described.queue_length,
    running: described.leases,
    instances: countBy(described.instances.map((instance) => instance.state)),
    wanted_instances: described.wanted_instances,
    last_error: bad === undefined ? null : showError(bad, isInside),
  };
}

function showError({ at, state, reason }: SetupReport, isInside: boolean): NonNullable<Status["last_error"]> {
  const shown = reason === null || isInside ? reason : errorClass(reason);
  return { at: new Date(at).toISOString(), state, reason: shown };
}

function countBy(names: string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}
