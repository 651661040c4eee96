/** What is done to a system while callers use it: kills, cut connections, a receiver of webhooks that fails. Each is counted. */
import type { ServerResponse } from "node:http";
import { killHard } from "../lib/processes.ts";
import { type Answer, takeAll, type WebhookCall } from "../lib/receiver.ts";
import type { System } from "../lib/system.ts";
import type { Toxiproxy } from "../lib/toxiproxy.ts";
import { waitFor } from "../lib/wait.ts";
import { draw } from "./plan.ts";

const KILL_EVERY_MS = 5_000;
/** Connections between parts live long: 1 % of few would be none, so beside that all of one proxy are cut at once. */
const CUT_EVERY_MS = 3_700;
const RECOVERY_MAX_MS = 120_000;
const FAILING_SHARE = 0.3;
const ENDLESS_SHARE = 0.05;
/** The schedule waits 1, 5, 15, 60 s, and then minutes, which nobody waits for here. */
const FAILURES_OF_ONE_MAX = 3;
const SLOW_BODY_EVERY_MS = 500;

export class Faults {
  readonly counts = {
    "gpu-origin killed": 0,
    "workerd killed": 0,
    "not running when its turn came": 0,
    "proxies cut": 0,
  };
  /** from each kill of workerd to the first answer of the next one, milliseconds */
  readonly recoveries_ms: number[] = [];
  readonly #timers: NodeJS.Timeout[] = [];
  #turn = 0;

  start(system: System, toxiproxy: Toxiproxy | null, proxies: readonly string[]): void {
    this.#timers.push(setInterval(() => this.#kill(system), KILL_EVERY_MS));
    if (toxiproxy === null) return;
    let next = 0;
    const cut = (): void => {
      const name = proxies[next++ % proxies.length] ?? "";
      void toxiproxy.cut(name).then(() => this.counts["proxies cut"]++);
    };
    this.#timers.push(setInterval(cut, CUT_EVERY_MS));
  }

  /** workerd and the origins, one of them in turn. */
  #kill(system: System): void {
    const isOrigin = this.#turn++ % 2 === 0;
    const running = isOrigin
      ? system.origins().toSorted((a, b) => a.command.localeCompare(b.command) || a.pid - b.pid)
      : system.processes().filter(({ name }) => name === "workerd");
    const victim = running[Math.floor(this.#turn / 2) % Math.max(running.length, 1)];
    if (victim === undefined) this.counts["not running when its turn came"]++;
    else {
      killHard(victim.pid);
      this.counts[isOrigin ? "gpu-origin killed" : "workerd killed"]++;
      if (!isOrigin) void this.#untilUp(system, performance.now());
    }
  }

  async #untilUp(system: System, killedAt: number): Promise<void> {
    await waitFor("workerd", RECOVERY_MAX_MS, async () => (await fetch(`${system.url}/healthz`)).status);
    this.recoveries_ms.push(Math.round(performance.now() - killedAt));
  }

  stop(): void {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
  }
}

/** Fails 30 % of calls: by an error, by a reset, by silence. Some good answers have a body that never ends. */
export function failingReceiver(seed: number): Answer {
  const failures = new Map<string, number>();
  const random = draw(seed);
  return (call: WebhookCall, response: ServerResponse) => {
    const failed = failures.get(call.id) ?? 0;
    if (random() < FAILING_SHARE && failed < FAILURES_OF_ONE_MAX) {
      failures.set(call.id, failed + 1);
      const way = random();
      if (way < 0.4) response.writeHead(500).end();
      else if (way < 0.8) response.destroy();
      // else it says nothing, until the caller gives up
      return false;
    }
    if (random() >= ENDLESS_SHARE) return takeAll(call, response);
    // What counts is the head of the answer: this one is taken.
    response.writeHead(200);
    const timer = setInterval(() => response.write("."), SLOW_BODY_EVERY_MS);
    response.on("close", () => clearInterval(timer));
    return true;
  };
}
