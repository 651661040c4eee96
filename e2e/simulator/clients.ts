/** Clients: each makes one prediction, with its key again where a create broke off, asks for it until it ended, and may cancel it. */
import { isTerminal } from "../../schema/prediction-lifecycle.ts";
import type { Checks } from "./checks.ts";
import type { EdgeWorker } from "./edge.ts";
import type { Network, Sender } from "./network.ts";
import type { PlannedPrediction } from "./scenario.ts";

/** Creates that break off are made again, with their key, so often. */
const TRIES_MAX = 8;
const CANCELS_MAX = 3;

/** Nothing of it breaks: it is outside. */
export class Client implements Sender {
  readonly isAlive = true;
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  leave(send: () => void): void {
    send();
  }
}

export class Clients {
  readonly #network: Network;
  readonly #edge: EdgeWorker;
  readonly #checks: Checks;

  constructor(network: Network, edge: EdgeWorker, checks: Checks) {
    this.#network = network;
    this.#edge = edge;
    this.#checks = checks;
  }

  async ask(client: Client, planned: PlannedPrediction, n: number): Promise<void> {
    await sleep(planned.at_ms);
    const ids = new Set<string>();
    for (let turn = 0; turn <= (planned.key === null ? 0 : planned.repeats); turn++) {
      const id = await this.#create(client, planned, n);
      if (id !== null) ids.add(id);
    }
    if (ids.size > 1) this.#checks.violation("a key makes one prediction", [...ids].join(", "));
    const [id] = ids;
    if (id === undefined) return;
    const cancels = planned.canceled_after_ms === null ? Promise.resolve() : this.#cancel(client, planned, id);
    for (let pause = this.#network.random.int(50, 400); ; pause = Math.min(pause * 2, 5_000)) {
      await sleep(pause);
      const asked = this.#network.timeline.now;
      const document = await this.#edge.get(client, id, planned.account).catch(() => undefined);
      if (document === null) return this.#checks.unreadable(id);
      if (document === undefined) continue;
      this.#checks.observed(document, asked);
      if (isTerminal(document.state)) break;
    }
    await cancels;
  }

  async #create(client: Client, planned: PlannedPrediction, n: number): Promise<string | null> {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const asked = this.#network.timeline.now;
      const created = await this.#edge.create(client, planned, `body ${n}`).catch(() => null);
      if (created?.kind === "created") {
        this.#checks.acknowledged(created.id);
        if (created.document !== null) this.#checks.observed(created.document, asked);
        return created.id;
      }
      if (planned.key === null || created?.retry === false) return null;
      await sleep(this.#network.random.int(100, 15_000));
    }
    return null;
  }

  async #cancel(client: Client, planned: PlannedPrediction, id: string): Promise<void> {
    await sleep(planned.canceled_after_ms ?? 0);
    for (let tries = 0; tries < CANCELS_MAX; tries++) {
      const asked = this.#network.timeline.now;
      const document = await this.#edge.cancel(client, id, planned.account).catch(() => undefined);
      if (document === null) return this.#checks.unreadable(id);
      if (document === undefined) continue;
      this.#checks.observed(document, asked);
      if (isTerminal(document.state)) return;
    }
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
