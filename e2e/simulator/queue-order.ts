/** The order of a deployment's queue and what its slots hold, as seen in what it says to others. */
import type {
  DeploymentDescription,
  EnqueueRequest,
  EnqueueResult,
  Lease,
  LeaseKey,
} from "../../durable-objects/deployment-contract.ts";

interface Place {
  /** the deployment's object, account and priority: first in, first out within it */
  line: string;
  /** when it was asked for first, and when that it waits was known outside: it is behind all that were known to wait before it was asked for */
  asked: number;
  known: number | null;
  leased_at: number | null;
}

export class QueueOrder {
  readonly #places = new Map<string, Place>();
  readonly #slots = new Map<string, number>();
  readonly #violation: (rule: string, detail: string) => void;
  #n = 0;

  constructor(violation: (rule: string, detail: string) => void) {
    this.#violation = violation;
  }

  slotsOf(instanceId: string): number | null {
    return this.#slots.get(instanceId) ?? null;
  }

  asked(deployment: string, request: EnqueueRequest): void {
    const key = `${request.prediction_id} ${request.attempt}`;
    if (this.#places.has(key)) return;
    const line = `${deployment} ${request.account_id} ${request.priority}`;
    this.#places.set(key, { line, asked: this.#n++, known: null, leased_at: null });
  }

  answered(request: EnqueueRequest, result: EnqueueResult): void {
    const place = this.#places.get(`${request.prediction_id} ${request.attempt}`);
    if (place === undefined) return;
    if (result.kind === "queued") place.known ??= this.#n++;
    if (result.kind === "leased") this.granted([result.lease]);
  }

  /** It ended, so it waits no more; what comes late of it is no claim to its old place. */
  left({ prediction_id, attempt }: LeaseKey): void {
    const place = this.#places.get(`${prediction_id} ${attempt}`);
    if (place !== undefined) place.known = null;
  }

  granted(leases: Lease[]): void {
    for (const { prediction_id, attempt, leased_at } of leases) {
      const place = this.#places.get(`${prediction_id} ${attempt}`);
      if (place === undefined || place.leased_at !== null) continue;
      place.leased_at = leased_at;
      if (place.known === null) continue;
      for (const other of this.#places.values()) {
        if (other.line !== place.line || other.leased_at === null || other.asked < place.known) continue;
        if (other.leased_at < leased_at) {
          this.#violation(
            "first in, first out",
            `${prediction_id}/${attempt} waited before one that was leased earlier`,
          );
        }
      }
    }
  }

  described(deployment: string, { instances, leases }: DeploymentDescription): void {
    for (const { instance_id, slots, leased } of instances) {
      this.#slots.set(instance_id, slots);
      if (leased > slots)
        this.#violation(
          "a slot is leased once",
          `${deployment}: ${leased} leases on ${instance_id}, which has ${slots}`,
        );
    }
    if (leases < 0) this.#violation("a slot is leased once", `${deployment}: ${leases} leases`);
  }
}
