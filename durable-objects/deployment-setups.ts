/**
 * What follows from setups that succeed or fail: averages of how long they take, pauses before the next try, and the end of those who wait for a model
 * that cannot be set up.
 */
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import { movingAverage } from "../schema/scaling.ts";
import type { EnqueueResult } from "./deployment-contract.ts";
import type { GrantDelivery } from "./deployment-grants.ts";
import type { DeploymentHistory } from "./deployment-history.ts";
import type { DeploymentFacts } from "./deployment-record.ts";
import type { Surroundings } from "./deployment-surroundings.ts";

/** Grants and refusals that nobody took are told again after this. */
export const TELL_AGAIN_MS = 5_000;
/** Refusals told by one deadline, so that one call carries a bounded body. */
const REFUSALS_PER_TURN = 1_000;
/** After so many failed setups in a row the queue is refused: the model is broken, not its host. */
export const SETUP_FAILURES_MAX = 3;
/** Pause after the first failed setup, and after the failure that refuses the queue; doubled by each further one. */
const SETUP_RETRY_MS = 1_000;
const SETUP_REFUSAL_MS = 30_000;
const SETUP_REFUSAL_MAX_MS = 300_000;

interface SetupSurroundings extends Surroundings<"tell"> {
  history: DeploymentHistory;
  grants: GrantDelivery;
}

export class DeploymentSetups {
  readonly #is: SetupSurroundings;

  constructor(surroundings: SetupSurroundings) {
    this.#is = surroundings;
  }

  /** For what comes while the current release is known not to work. */
  refusal(bootKey: string, now: number): EnqueueResult | null {
    const { queue } = this.#is;
    const facts = queue.facts();
    const isHeld = facts.setup_failures >= SETUP_FAILURES_MAX && now < facts.hold_until;
    if (!isHeld || bootKey !== queue.bootKey()) return null;
    return { kind: "refused", code: "model.setup_failed", detail: failureOf(facts) };
  }

  /** Inside a write, as what follows. */
  succeeded(bootKey: string, status: InstanceStatus): void {
    const { queue, history } = this.#is;
    const { model, version_id, shown_version = version_id } = queue.specOf(bootKey) ?? queue.spec();
    history.started(model, shown_version, status.boot_ms, status.setup_ms);
    if (bootKey !== queue.bootKey()) return;
    const facts = queue.facts();
    queue.saveFacts({
      setup_failures: 0,
      setup_error: null,
      hold_until: 0,
      boot_ms: status.boot_ms === undefined ? facts.boot_ms : movingAverage(facts.boot_ms, status.boot_ms),
      setup_ms: status.setup_ms === undefined ? facts.setup_ms : movingAverage(facts.setup_ms, status.setup_ms),
    });
  }

  /**
   * Tries again after a pause; the third failure in a row refuses all that wait, and each later try that fails does so again. What waits for an older
   * release is refused at once: whoever made a newer one has moved on, and the newer one is not held back.
   */
  failed(bootKey: string, setup_error: string, now: number): void {
    const { queue } = this.#is;
    if (bootKey !== queue.bootKey()) {
      this.refuseAll(bootKey, `The model could not be set up: ${setup_error}.`, now);
      return;
    }
    const setup_failures = queue.facts().setup_failures + 1;
    const isBroken = setup_failures >= SETUP_FAILURES_MAX;
    const pause = isBroken
      ? Math.min(SETUP_REFUSAL_MS * 2 ** (setup_failures - SETUP_FAILURES_MAX), SETUP_REFUSAL_MAX_MS)
      : SETUP_RETRY_MS * 2 ** (setup_failures - 1);
    queue.saveFacts({ setup_failures, setup_error, hold_until: now + pause });
    if (isBroken) this.refuseAll(bootKey, failureOf(queue.facts()), now);
  }

  /** All that waits for this key. Inside a write. */
  refuseAll(bootKey: string, refusal: string, now: number): void {
    const { queue, alarms, followUp } = this.#is;
    queue.refuseAll(bootKey);
    queue.saveFacts({ refusal });
    alarms.setNoLaterThan("tell", now + TELL_AGAIN_MS);
    followUp(() => this.tellRefusals());
  }

  async tellRefusals(): Promise<void> {
    const { queue, grants, write } = this.#is;
    const refused = queue.refused(REFUSALS_PER_TURN);
    if (refused.length === 0) return;
    await grants.refuse(refused, "model.setup_failed", queue.facts().refusal, (told) =>
      write(() => {
        for (const key of told) queue.dequeue(key);
      }),
    );
  }
}

/** What callers may know of a failed setup: the class of the error; its message and logs are for the model's owner. */
export function errorClass(reason: string | undefined): string {
  const error = (reason ?? "").replace(/^(setup|boot): /, "");
  return /^[A-Za-z_][\w.]{0,63}(?=[:\s(]|$)/.exec(error)?.[0] ?? "Error";
}

function failureOf(facts: Readonly<DeploymentFacts>): string {
  return `The model could not be set up: ${facts.setup_error ?? "Error"}, ${facts.setup_failures} times in a row.`;
}
