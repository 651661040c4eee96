/** Use cases of deployments: who may what, which configurations are right, and telling the DeploymentObject. */
import type { z } from "@hono/zod-openapi";
import type { DeploymentDescription } from "../../durable-objects/deployment-contract.ts";
import { deploymentStub } from "../../durable-objects/stubs.ts";
import type {
  CreateDeploymentSchema,
  DeploymentSchema,
  ReleaseSchema,
  ScalingSchema,
} from "../../schema/api/deployments.ts";
import { parseModelReference } from "../../schema/ids.ts";
import { AppError, type InvalidField } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import {
  type DeploymentRow,
  deleteDeployment,
  findRelease,
  insertDeployment,
  insertRelease,
  type ReleaseChange,
  type ReleaseConfiguration,
  type ReleaseRow,
  readDeployment,
  type ShownRelease,
} from "../storage/deployments.ts";
import { findModel, findVersion, listHardware } from "../storage/models.ts";
import { isAllowed, mayManage, mayPush, maySee } from "./model-access.ts";
import { deploymentKey, deploymentSpec } from "./run-spec.ts";
import { invalidInput } from "./validate-input.ts";

/** A deployment that ran something in this time is not deleted (Replicate's rule). */
const UNUSED_MS = 900_000;

/** A deployment that the caller may see and change. */
export async function requireDeployment(
  edge: Edge,
  caller: Caller,
  owner: string,
  name: string,
): Promise<DeploymentRow> {
  const found = mayPush(caller, owner) ? await readDeployment(edge.env.DB, owner, name) : null;
  if (found === null || !reaches(caller, found.release)) throw notFound(owner, name);
  return found;
}

/** Its current release, for a prediction on it. */
export async function requireRelease(edge: Edge, caller: Caller, owner: string, name: string): Promise<ReleaseRow> {
  const release = mayPush(caller, owner) ? await findRelease(edge.env.DB, owner, name, edge.later) : null;
  if (release === null || !reaches(caller, release)) throw notFound(owner, name);
  if (release.max_instances > 0) return release;
  throw new AppError(
    "deployment.disabled",
    `The deployment ${owner}/${name} is disabled. Set max_instances to 1 or more to run predictions on it.`,
  );
}

export async function createDeployment(
  edge: Edge,
  caller: Caller,
  wanted: z.infer<typeof CreateDeploymentSchema>,
): Promise<ReleaseRow> {
  const [first = "", second] = wanted.name.split("/");
  const [owner, name] = second === undefined ? [caller.username, first] : [first, second];
  const { name: _name, ...configuration } = wanted;
  const faults = [
    ...(await faultsOfVersion(edge, caller, configuration)),
    ...(await faultsOfHardware(edge, configuration.hardware)),
    ...faultsOfBounds(configuration),
  ];
  if (!mayPush(caller, owner)) {
    faults.push({ type: "enum", field: "name", description: "Its owner must be you or an organization you are in." });
  }
  if (faults.length > 0) throw invalidInput(faults);
  const row = { owner, name, ...configuration, created_by: caller.username };
  const release = await insertDeployment(edge.env.DB, row, Date.now());
  if (release === null) {
    const detail = `${owner} has a deployment named ${name} already. Choose another name, or change that one with PATCH.`;
    throw new AppError("deployment.name_taken", detail);
  }
  await configure(edge, release);
  return release;
}

/** Makes a new release where something changes, and tells the object of the current one in any case: an earlier call may have been cut off before. */
export async function updateDeployment(
  edge: Edge,
  caller: Caller,
  owner: string,
  name: string,
  change: ReleaseChange,
): Promise<void> {
  const by = { username: caller.username, now: Date.now() };
  const release = await insertRelease(edge.env.DB, owner, name, change, by, async (next) => {
    // What stays is not judged again: a deployment can be disabled whatever became of its model.
    const versionFaults = change.version === undefined ? [] : await faultsOfVersion(edge, caller, next);
    const hardwareFaults = change.hardware === undefined ? [] : await faultsOfHardware(edge, next.hardware);
    const faults = [...versionFaults, ...hardwareFaults, ...faultsOfBounds(next)];
    if (faults.length > 0) throw invalidInput(faults);
  });
  if (release === null) throw notFound(owner, name);
  await configure(edge, release);
}

async function configure(edge: Edge, release: ReleaseRow): Promise<void> {
  const [owner = "", name = ""] = release.model.split("/");
  const version = await findVersion(edge.env.DB, owner, name, release.version, edge.later);
  if (version === null) throw new Error("a deployed version is not in the catalog");
  const object = deploymentStub(edge.env, deploymentKey(release.owner, release.name));
  await object.configure(await deploymentSpec(edge, version, release));
}

async function faultsOfVersion(
  edge: Edge,
  caller: Caller,
  { model, version }: { model: string; version: string },
): Promise<InvalidField[]> {
  const reference = parseModelReference(model);
  const found =
    reference?.kind === "model" ? await findModel(edge.env.DB, reference.owner, reference.name, edge.later) : null;
  if (found === null || !maySee(caller, found)) {
    return [{ type: "enum", field: "model", description: "The model does not exist, or you may not run it." }];
  }
  const { owner, name } = found.model;
  if ((await findVersion(edge.env.DB, owner, name, version, edge.later)) !== null) return [];
  return [{ type: "enum", field: "version", description: `This is no version of ${model}.` }];
}

async function faultsOfHardware(edge: Edge, hardware: string): Promise<InvalidField[]> {
  const known = (await listHardware(edge.env.DB)).map(({ sku }) => sku);
  if (known.includes(hardware)) return [];
  return [{ type: "enum", field: "hardware", description: `Must be one of: ${known.join(", ")}.` }];
}

function faultsOfBounds({ min_instances, max_instances }: ReleaseConfiguration): InvalidField[] {
  if (min_instances <= max_instances) return [];
  const description = `Must be less than or equal to max_instances, which is ${max_instances}.`;
  return [{ type: "number_lte", field: "min_instances", description }];
}

/** Removes a deployment that runs nothing, has no instances, and has not been used for {@link UNUSED_MS}. */
export async function removeDeployment(edge: Edge, caller: Caller, owner: string, name: string): Promise<void> {
  await requireDeployment(edge, caller, owner, name);
  if (!mayManage(caller, owner)) {
    throw new AppError("auth.forbidden", `Only owners and admins of ${owner} delete its deployments.`);
  }
  const result = await deploymentStub(edge.env, deploymentKey(owner, name)).retire(UNUSED_MS);
  if (!result.retired) throw inUse(result);
  await deleteDeployment(edge.env.DB, owner, name);
}

function inUse({ instances, free_at }: { instances: number; free_at: number | null }): AppError {
  if (instances > 0) {
    const detail = `It has ${instances} instance${instances === 1 ? "" : "s"}. Set min_instances and max_instances to 0, and delete it 15 minutes after its last prediction.`;
    return new AppError("deployment.in_use", detail);
  }
  if (free_at === null) {
    const detail = "Predictions wait for it. Set min_instances and max_instances to 0 to cancel them, or let them end.";
    return new AppError("deployment.in_use", detail);
  }
  const detail = `It was used less than 15 minutes ago. It can be deleted from ${new Date(free_at).toISOString()} on.`;
  const retry_after = Math.max(1, Math.ceil((free_at - Date.now()) / 1_000));
  return new AppError("deployment.in_use", detail, { retry_after });
}

/** What runs for it right now. */
export function describeDeployment(edge: Edge, owner: string, name: string): Promise<DeploymentDescription> {
  return deploymentStub(edge.env, deploymentKey(owner, name)).describe();
}

/** How it scales. One that nobody told its object of yet is told now. */
export async function scalingOf(edge: Edge, release: ReleaseRow): Promise<z.infer<typeof ScalingSchema>> {
  const { owner, name } = release;
  const object = deploymentStub(edge.env, deploymentKey(owner, name));
  let scaling = await object.scaling();
  if (scaling === null) {
    await configure(edge, release);
    scaling = await object.scaling();
  }
  if (scaling === null) throw notFound(owner, name);
  const { wanted_instances, reason, lanes, measures, targets, held_back, decisions } = scaling;
  const { stable_window_ms, panic_window_ms, ...bounds } = targets;
  return {
    current: {
      ...{ wanted_instances, reason, lanes, ...measures },
      held_back: held_back === null ? null : { ...held_back, until: new Date(held_back.until).toISOString() },
    },
    targets: bounds,
    windows: { stable_ms: stable_window_ms, panic_ms: panic_window_ms },
    decisions: decisions.map(({ at, wanted_before, wanted, ...decision }) => ({
      ...{ at: new Date(at).toISOString(), from: wanted_before, to: wanted, ...decision },
    })),
  };
}

export function showDeployment(
  row: ShownRelease,
  description?: DeploymentDescription,
): z.infer<typeof DeploymentSchema> {
  const { owner, name } = row.release;
  const shown = { owner, name, current_release: showRelease(row) };
  if (description === undefined) return shown;
  const { instances, wanted_instances, queue_length, reason } = description;
  const inState = (state: string) => instances.filter((instance) => instance.state === state).length;
  return {
    ...shown,
    status: {
      instances: {
        boot: inState("boot"),
        setup: inState("setup"),
        ready: inState("ready"),
        draining: inState("draining"),
      },
      older_instances: instances.filter((instance) => !instance.is_current).length,
      wanted_instances,
      queue_length,
      reason,
    },
  };
}

export function showRelease({ release, author }: ShownRelease): z.infer<typeof ReleaseSchema> {
  const { number, model, version, created_at, created_by, hardware, min_instances, max_instances } = release;
  return {
    number,
    model,
    version,
    created_at: new Date(created_at).toISOString(),
    created_by: {
      ...(author ?? { type: "user", username: created_by, name: created_by }),
      avatar_url: null,
      github_url: null,
    },
    configuration: { hardware, min_instances, max_instances },
  };
}

function reaches(caller: Caller, { model }: ReleaseRow): boolean {
  const [owner = "", name = ""] = model.split("/");
  return isAllowed(caller, owner, name);
}

function notFound(owner: string, name: string): AppError {
  const detail = `The deployment ${owner}/${name} does not exist, or you may not use it.`;
  return new AppError("deployment.not_found", detail.slice(0, 300));
}
