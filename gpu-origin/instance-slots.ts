/** The slots of one instance, first in first out: predictions take one, wait for one, and give it back. */
import type { CogClient } from "./cog-client.ts";

/** A server that takes predictions now, and which start of it that is. */
export interface Serving {
  client: CogClient;
  generation: number;
}

/** A slot that is held until `release`. */
export interface Slot extends Serving {
  release: () => void;
}

export type Acquired = { kind: "slot"; slot: Slot } | { kind: "gone"; reason: string };

export class InstanceSlots {
  readonly #size: number;
  /** null while nothing is served */
  readonly #serving: () => Serving | null;
  #busy = 0;
  #waiters: ((acquired: Acquired) => void)[] = [];
  #onIdle: (() => void)[] = [];

  constructor(size: number, serving: () => Serving | null) {
    this.#size = size;
    this.#serving = serving;
  }

  get busy(): number {
    return Math.min(this.#busy, this.#size);
  }

  /** Nobody holds a slot or waits for one. */
  get isQuiet(): boolean {
    return this.#busy === 0 && this.#waiters.length === 0;
  }

  /** A slot, in the order of asking. Resolves at once when one is free. Aborting gives the place up. */
  acquire(signal: AbortSignal): Acquired | Promise<Acquired> {
    if (this.#waiters.length === 0) {
      const slot = this.#take();
      if (slot !== null) return { kind: "slot", slot };
    }
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
      signal.addEventListener("abort", () => {
        this.#waiters = this.#waiters.filter((other) => other !== resolve);
        resolve({ kind: "gone", reason: "given up" });
      });
    });
  }

  #take(): Slot | null {
    const serving = this.#serving();
    if (serving === null || this.#busy >= this.#size) return null;
    this.#busy += 1;
    let isHeld = true;
    const release = (): void => {
      if (!isHeld) return;
      isHeld = false;
      this.#busy -= 1;
      this.serve();
    };
    return { ...serving, release };
  }

  /** Gives free slots to those who wait; to be called whenever it may serve again. */
  serve(): void {
    while (this.#waiters.length > 0) {
      const slot = this.#take();
      if (slot === null) break;
      this.#waiters.shift()?.({ kind: "slot", slot });
    }
    if (this.#busy === 0) for (const act of this.#onIdle.splice(0)) act();
  }

  /** Calls `act` once, when no slot is held. */
  whenIdle(act: () => void): void {
    if (this.#busy === 0) act();
    else this.#onIdle.push(act);
  }

  /** There will be no slots any more. */
  end(reason: string): void {
    for (const give of this.#waiters.splice(0)) give({ kind: "gone", reason });
    for (const act of this.#onIdle.splice(0)) act();
  }
}
