/**
 * Tells PredictionObjects what became of their queued predictions: leases granted, or refused for good. What was told is known in memory alone:
 * after a start every lease may be untold and is told again, which its prediction takes as a repeat.
 *
 * | crash                                        | then                                                        |
 * | -------------------------------------------- | ----------------------------------------------------------- |
 * | between the commit of a grant and its telling | the deadline of the same commit rings: told again            |
 * | the PredictionObject is away                 | stays untold, told again by the deadline                     |
 * | the prediction ended meanwhile               | it declines, and the slot goes to the next                   |
 */
import { predictionObjectName } from "../schema/ids.ts";
import type { Lease, LeaseKey } from "./deployment-contract.ts";
import type { DeploymentQueue } from "./deployment-queue.ts";
import { predictionStub } from "./stubs.ts";

export class GrantDelivery {
  readonly #env: Env;
  readonly #queue: DeploymentQueue;
  #untold: Map<string, Lease> | null = null;
  readonly #onTheWay = new Set<string>();

  /** All leases of the queue are read once, before the first grant after a start. */
  constructor(env: Env, queue: DeploymentQueue) {
    this.#env = env;
    this.#queue = queue;
  }

  #load(): Map<string, Lease> {
    this.#untold ??= new Map(this.#queue.leases().map((lease) => [keyText(lease), lease]));
    return this.#untold;
  }

  /** Call before the lease is stored. */
  add(lease: Lease): void {
    this.#load().set(keyText(lease), lease);
  }

  /** The lease ended. */
  forget(key: LeaseKey): void {
    this.#untold?.delete(keyText(key));
  }

  isUntold(key: LeaseKey): boolean {
    return this.#load().has(keyText(key));
  }

  hasUntold(): boolean {
    return this.#load().size > 0;
  }

  /** Tells all grants that are untold, one call for each PredictionObject. Answers those that are not wanted any more. */
  async tell(): Promise<LeaseKey[]> {
    const due = [...this.#load().values()].filter((lease) => !this.#onTheWay.has(keyText(lease)));
    const byObject = Map.groupBy(due, (lease) => predictionObjectName(lease.prediction_id));
    const declined = await Promise.all([...byObject.values()].map((leases) => this.#tellObject(leases)));
    return declined.flat();
  }

  async #tellObject(leases: Lease[]): Promise<LeaseKey[]> {
    for (const lease of leases) this.#onTheWay.add(keyText(lease));
    const { lane } = this.#queue.facts();
    const told = lane === 0 ? leases : leases.map((lease) => ({ ...lease, lane }));
    try {
      const { declined } = await predictionStub(this.#env, leases[0]?.prediction_id ?? "").leasesGranted(told);
      for (const lease of leases) this.#untold?.delete(keyText(lease));
      return declined;
    } catch (error) {
      console.warn(JSON.stringify({ event: "grants_untold", leases: leases.length, error: String(error) }));
      return [];
    } finally {
      for (const lease of leases) this.#onTheWay.delete(keyText(lease));
    }
  }

  /** Tells predictions that they are refused, but for those that are being told. `told`: has these forgotten, as soon as their object was told. */
  async refuse(
    keys: LeaseKey[],
    code: string,
    detail: string,
    told: (keys: LeaseKey[]) => Promise<void>,
  ): Promise<void> {
    const due = keys.filter((key) => !this.#onTheWay.has(keyText(key)));
    const byObject = Map.groupBy(due, (key) => predictionObjectName(key.prediction_id));
    await Promise.all(
      [...byObject.values()].map(async (group) => {
        const refusals = group.map(({ prediction_id }) => ({ prediction_id, code, detail }));
        for (const key of group) this.#onTheWay.add(keyText(key));
        try {
          await predictionStub(this.#env, group[0]?.prediction_id ?? "").leasesRefused(refusals);
          await told(group);
        } catch (error) {
          console.warn(JSON.stringify({ event: "refusals_untold", refusals: group.length, error: String(error) }));
        } finally {
          for (const key of group) this.#onTheWay.delete(keyText(key));
        }
      }),
    );
  }
}

function keyText(key: LeaseKey): string {
  return `${key.prediction_id}/${key.attempt}`;
}
