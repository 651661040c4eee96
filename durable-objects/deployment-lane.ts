/**
 * A lane of a deployment but 0: it places nothing, and leases the slots that lane 0 lets it (deployment-lanes.ts). While it has work it reports every moment, at
 * once when something waits for which it has no slot. What it holds changes by the answer to its newest report alone, and never below what it has leased.
 */
import type { LaneReport, LaneShare } from "./deployment-contract.ts";
import { CANCEL_AGAIN_MS, type DeploymentLeases } from "./deployment-leases.ts";
import type { Surroundings } from "./deployment-surroundings.ts";
import { deploymentStub } from "./stubs.ts";

/** While it has work it reports this often: so long a slot that became free elsewhere may take to come here. */
const REPORT_EVERY_MS = 250;
/** Not more often than this, whatever happens. */
const REPORT_PAUSE_MS = 100;
/** After so long without work it gives back what it holds, and rests. */
export const LANE_REST_MS = 2_000;

interface LaneSurroundings extends Surroundings<"scale" | "cancel"> {
  leases: DeploymentLeases;
  /** inside a write: what waits for this key is refused */
  refuse: (bootKey: string, detail: string, now: number) => void;
}

export class DeploymentLane {
  readonly #is: LaneSurroundings;
  readonly #gone = new Set<string>();
  #came = 0;
  #leases = 0;
  #worked_at = 0;
  #asked_at = 0;
  #asking: Promise<void> | null = null;

  constructor(surroundings: LaneSurroundings) {
    this.#is = surroundings;
  }

  /** Says and hears nothing until it has work: what it was told last may not be so any more. */
  isResting(): boolean {
    return this.#is.alarms.get("scale") === null;
  }

  /** A prediction came for the first time. */
  came(): void {
    this.#came += 1;
  }

  /** So many slots were leased. */
  leased(count: number): void {
    this.#leases += count;
  }

  /** Inside a write: something is to be told soon. */
  scale(now: number): void {
    const { alarms, followUp } = this.#is;
    if (this.#asking === null && now >= this.#asked_at + REPORT_PAUSE_MS) {
      alarms.setNoLaterThan("scale", now + REPORT_EVERY_MS);
      followUp(this.#report);
    } else alarms.setNoLaterThan("scale", now + REPORT_PAUSE_MS);
  }

  /** Inside a write: it has work, which found a slot. */
  scaleSometimes(now: number): void {
    this.#is.alarms.setNoLaterThan("scale", now + REPORT_EVERY_MS);
  }

  keepIdleMs(): number {
    return REPORT_EVERY_MS;
  }

  /** Inside a write: an instance does not know what was leased on it. */
  letGo(instanceId: string, now: number): void {
    const row = this.#is.queue.instance(instanceId);
    if (row !== null) this.#is.queue.setInstanceState(instanceId, "draining", row.slots, now);
    this.#gone.add(instanceId);
    this.scale(now);
  }

  readonly #report = (): Promise<void> => {
    this.#asking ??= this.#tell().finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  };

  async #tell(): Promise<void> {
    const { env, queue, write } = this.#is;
    const report = await write((now) => this.#compose(now));
    const share = await deploymentStub(env, queue.spec().deployment_key).share(report);
    // Only one that was sent twice on its way: the next one is heard.
    if (share === null) return;
    for (const instanceId of report.gone) this.#gone.delete(instanceId);
    this.#came -= report.came;
    this.#leases -= report.leases;
    await write((now) => this.#take(report, share, now));
  }

  /** Inside a write. A lane that rests holds nothing from here on. */
  #compose(now: number): LaneReport {
    const { queue, alarms } = this.#is;
    this.#asked_at = now;
    const { lane, last_lane_report } = queue.facts();
    const n = last_lane_report + 1;
    queue.saveFacts({ last_lane_report: n });
    if (queue.isBusy()) this.#worked_at = now;
    const is_resting = now - this.#worked_at >= LANE_REST_MS;
    const rows = queue.instances();
    if (is_resting) for (const row of rows) queue.deleteInstance(row.instance_id);
    // Until this is answered, it is told again.
    alarms.setNoLaterThan("scale", now + REPORT_EVERY_MS);
    const holds = rows.map(({ instance_id, slots, own, last_used_at }) => ({
      ...{ instance_id, slots: Math.max(slots, own), leased: own, last_used_at },
    }));
    const demand = [...queue.demand()].flatMap(([boot_key, waits]) => {
      const spec = queue.specOf(boot_key);
      return spec === null ? [] : [{ boot_key, spec, ...waits }];
    });
    const counted = { came: this.#came, leases: this.#leases };
    return { lane, n, is_resting, holds: is_resting ? [] : holds, demand, gone: [...this.#gone], ...counted };
  }

  /** Inside a write. */
  #take(report: LaneReport, { spec, facts, shares, refused }: LaneShare, now: number): void {
    const { queue, leases, alarms, refuse } = this.#is;
    // A later report is on its way after a start: its answer counts.
    if (queue.facts().last_lane_report !== report.n) return;
    queue.saveSpec(spec, now, true);
    queue.saveFacts(facts);
    for (const bootKey of refused) refuse(bootKey, facts.refusal, now);
    if (queue.spec().max_instances === 0 && queue.isBusy()) alarms.setNoLaterThan("cancel", now + CANCEL_AGAIN_MS);
    const given = new Map(report.is_resting ? [] : shares.map((share) => [share.instance_id, share]));
    let isLess = false;
    for (const row of queue.instances()) {
      const share = given.get(row.instance_id);
      const slots = Math.max(share?.slots ?? 0, row.own);
      isLess ||= slots < row.slots;
      if (share !== undefined) continue;
      if (row.own === 0) queue.deleteInstance(row.instance_id);
      else if (row.state !== "draining" || row.slots !== slots) {
        queue.setInstanceState(row.instance_id, "draining", slots, now);
      }
    }
    for (const share of given.values()) {
      if (this.#gone.has(share.instance_id)) continue;
      const own = queue.instance(share.instance_id)?.own ?? 0;
      queue.setShare({ ...share, slots: Math.max(share.slots, own) }, now);
    }
    queue.deleteUnusedSpecs();
    leases.grant(now);
    if (report.is_resting && !queue.isBusy()) alarms.clear("scale");
    // What it holds no more is of use elsewhere; and what came while it was going to rest asks anew.
    else if (isLess || report.is_resting) this.scale(now);
    else alarms.setNoLaterThan("scale", now + REPORT_EVERY_MS);
  }
}
