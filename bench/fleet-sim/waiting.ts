/**
 * What waits for one deployment, in the queue that production uses (durable-objects/deployment-queue.ts) on its own SQLite. A queue that is empty is
 * given back, so 50,000 deployments need as many as wait at one time.
 */
import type { EnqueueRequest } from "../../durable-objects/deployment-contract.ts";
import { DeploymentQueue } from "../../durable-objects/deployment-queue.ts";
import type { RunSpec } from "../../durable-objects/prediction-contract.ts";
import { memorySql } from "./sqlite.ts";

const free: DeploymentQueue[] = [];

export class Waiting {
  readonly #queue = free.pop() ?? newQueue();
  readonly #bootKey = this.#queue.bootKey();
  #length = 0;
  /** arrivals of what waits, in their order; what has left is skipped when it comes to the front */
  readonly #since: { index: number; at: number }[] = [];
  readonly #left = new Set<number>();
  #first = 0;

  get length(): number {
    return this.#length;
  }

  get since(): number | null {
    return this.#since[this.#first]?.at ?? null;
  }

  add(index: number, account: number, at: number): void {
    const request = { prediction_id: String(index), attempt: 1, account_id: String(account), priority: 0 };
    this.#queue.append({ ...request, enqueued_at: Math.floor(at) } as EnqueueRequest, this.#bootKey, true);
    this.#since.push({ index, at });
    this.#length++;
  }

  /** The next in the order of the queue, which leaves it. */
  take(): number | null {
    const next = this.#length === 0 ? null : this.#queue.next([this.#bootKey]);
    if (next === null) return null;
    this.#queue.dequeue(next);
    this.#length--;
    const index = Number(next.prediction_id);
    this.#left.add(index);
    while (this.#left.delete(this.#since[this.#first]?.index ?? -1)) this.#first++;
    return index;
  }

  giveBack(): void {
    free.push(this.#queue);
  }
}

function newQueue(): DeploymentQueue {
  const queue = new DeploymentQueue(memorySql());
  const spec = { release: 1, version_id: "v", mode: "predict", weights: null, hardware: "gpu" };
  queue.saveSpec(spec as RunSpec, 0, false);
  return queue;
}
