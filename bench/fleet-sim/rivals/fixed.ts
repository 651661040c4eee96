/**
 * Rival a: as many instances as the operator set, always. He knows the mean load of each deployment and sets what keeps them 70 % busy, one at least. Where the
 * fleet cannot hold one for each, those with the most load have theirs, up to 90 % of the GPUs of each hardware; every other deployment gets one when
 * something waits, and loses it when nothing does.
 */
import { type Deployment, GPUS_PER_HOST, HARDWARE, type Trace } from "../traces.ts";
import { constantIdle } from "./constant-idle.ts";
import type { Decision, DeploymentView, Policy, PolicyMaker } from "./policy.ts";

const TARGET_BUSY = 0.7;
const FLEET_SHARE_MAX = 0.9;

export function fixedInstances(): PolicyMaker {
  const plans = new WeakMap<Trace, number[]>();
  const onDemand = constantIdle(0);
  return {
    name: "fixed",
    make: (deployment, index, trace) => {
      const plan = plans.get(trace) ?? planFleet(trace);
      plans.set(trace, plan);
      const count = plan[index] ?? 0;
      return count > 0 ? new Fixed(count) : onDemand.make({ ...deployment, max_instances: 1 }, index, trace);
    },
  };
}

class Fixed implements Policy {
  readonly min_instances: number;

  constructor(count: number) {
    this.min_instances = count;
  }

  decide({ instances }: DeploymentView): Decision {
    return { place: this.min_instances - instances.length, drain: [], decide_again_at: null };
  }
}

/** Instances of each deployment of the trace; 0 for those on demand. */
function planFleet(trace: Trace): number[] {
  const room = HARDWARE.map((_, hardware) => {
    const hosts = Math.floor((trace.hosts - hardware + HARDWARE.length - 1) / HARDWARE.length);
    return Math.floor(hosts * GPUS_PER_HOST * FLEET_SHARE_MAX);
  });
  const plan = trace.deployments.map(() => 0);
  const byLoad = trace.deployments.map((deployment, index) => ({ deployment, index }));
  byLoad.sort((one, other) => other.deployment.mean_load - one.deployment.mean_load || one.index - other.index);
  for (const { deployment, index } of byLoad) {
    const count = wanted(deployment);
    const left = room[deployment.hardware] ?? 0;
    if (count > left) continue;
    room[deployment.hardware] = left - count;
    plan[index] = count;
  }
  return plan;
}

function wanted({ mean_load, max_instances }: Deployment): number {
  return Math.min(max_instances, Math.max(1, Math.ceil(mean_load / TARGET_BUSY)));
}
