/**
 * What lies between those who talk: messages are delayed, so overtake each other, are lost on the way there or back, and come twice. Who called hears of a
 * loss as a broken connection, as over a real one; whether it arrived, nobody tells. Nothing leaves an object before what it wrote is durable (its gate).
 */
import type { Random } from "./random.ts";
import type { Actor, Timeline } from "./timeline.ts";

/** Somebody who sends: an object holds its messages back while it has writes that are not durable. */
export interface Sender extends Actor {
  leave(send: () => void): void;
}

export interface FaultRates {
  /** of a message, in each direction */
  lost: number;
  doubled: number;
  /** it takes seconds instead of milliseconds */
  slow: number;
  /** of an object, at the end of a commit or of a turn */
  crash: number;
  /** of the whole isolate, a second */
  killAll: number;
  /** of an origin's process, a second; of an instance on it; of a network that parts an origin from the edge */
  originCrash: number;
  instanceCrash: number;
  partition: number;
  /** of a receiver's answer */
  webhook: number;
  /** of R2 */
  storage: number;
}

const NO_FAULTS: FaultRates = {
  ...{ lost: 0, doubled: 0, slow: 0, crash: 0, killAll: 0, originCrash: 0, instanceCrash: 0, partition: 0 },
  ...{ webhook: 0, storage: 0 },
};

/** The connection broke: the platform says as much, and no more. */
export class Broken extends Error {
  readonly retryable: boolean;
  constructor(message: string, retryable: boolean) {
    super(`network: ${message}`);
    this.retryable = retryable;
  }
}

export type Reply = { text: string } | { error: Error };

export interface Exchange {
  from: Sender;
  label: string;
  /** what is sent, as text: both sides hold copies */
  text: string;
  /** Called once for each arrival. `reply` may be called at any time later, or never. */
  serve: (text: string, reply: (reply: Reply) => void) => void;
  signal?: AbortSignal | undefined;
  /** delivered at once, whatever else happens: those who only look */
  isPerfect?: boolean;
  /** another rate of loss, in both directions */
  lost?: number;
}

/** Delays in milliseconds: of most messages, and of slow ones. */
const QUICK_MS = [0.2, 6] as const;
const SLOW_MS = [50, 4_000] as const;
/** A broken connection is noticed after this. */
const BREAK_MS = [0.5, 400] as const;

export class Network {
  readonly timeline: Timeline;
  readonly random: Random;
  #rates: FaultRates;

  constructor(timeline: Timeline, random: Random, rates: FaultRates) {
    this.timeline = timeline;
    this.random = random;
    this.#rates = rates;
  }

  get rates(): Readonly<FaultRates> {
    return this.#rates;
  }

  /** From now on everything works. */
  heal(): void {
    this.#rates = NO_FAULTS;
  }

  delay(): number {
    const [from, to] = this.random.chance(this.#rates.slow) ? SLOW_MS : QUICK_MS;
    return this.random.between(from, to);
  }

  exchange({ from, label, text, serve, signal, isPerfect = false, lost }: Exchange): Promise<string> {
    const { timeline, random } = this;
    return new Promise<string>((resolve, reject) => {
      let isSettled = false;
      const fail = (error: Error): void => {
        if (isSettled) return;
        isSettled = true;
        reject(error);
      };
      if (signal?.aborted) return fail(signal.reason as Error);
      signal?.addEventListener("abort", () => fail(signal.reason as Error));
      const broken = (way: string): void => {
        timeline.trace(`${label} ${way} lost`);
        const error = new Broken(`${label}: ${way} lost`, random.chance(0.5));
        timeline.after(random.between(...BREAK_MS), from, () => fail(error));
      };
      const answer = (reply: Reply): void => {
        if (isSettled) return;
        if (!isPerfect && random.chance(lost ?? this.#rates.lost)) {
          broken("answer");
          return;
        }
        timeline.after(isPerfect ? 0 : this.delay(), from, () => {
          if (isSettled) return;
          isSettled = true;
          if ("error" in reply) {
            timeline.trace(`${from.name} < ${label} ! ${reply.error.message}`);
            reject(reply.error);
          } else {
            timeline.trace(`${from.name} < ${label} ${reply.text}`);
            resolve(reply.text);
          }
        });
      };
      from.leave(() => {
        if (isPerfect) return timeline.after(0, null, () => serve(text, answer));
        if (random.chance(lost ?? this.#rates.lost)) return broken("request");
        const arrivals = random.chance(this.#rates.doubled) ? 2 : 1;
        for (let n = 0; n < arrivals; n++) {
          timeline.after(this.delay(), null, () => {
            timeline.trace(`${label}${n > 0 ? " again" : ""} ${text}`);
            // Only the first one's connection is still open.
            serve(text, n === 0 ? answer : () => undefined);
          });
        }
      });
    });
  }
}
