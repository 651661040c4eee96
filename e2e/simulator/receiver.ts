/** A receiver of webhooks that fails in every way: it refuses, never answers, breaks off, or takes the event and the answer is lost. Signatures are verified. */

import { createHmac } from "node:crypto";
import { webhookKey } from "../../schema/webhooks.ts";
import type { Checks } from "./checks.ts";
import { Broken, type Network, type Sender } from "./network.ts";

export class Receiver {
  readonly #network: Network;
  readonly #checks: Checks;
  readonly #generations: (account: string) => string[];
  readonly #secret: string;
  calls = 0;

  /** `generations`: those of an account's keys that are durable. */
  constructor(network: Network, checks: Checks, secret: string, generations: (account: string) => string[]) {
    this.#network = network;
    this.#checks = checks;
    this.#secret = secret;
    this.#generations = generations;
  }

  async call(from: Sender, url: string, init: RequestInit): Promise<unknown> {
    const headers = init.headers as Record<string, string>;
    const body = String(init.body);
    const account = new URL(url).pathname.slice(1);
    const event = headers["cogway-event"] ?? "";
    const webhook_id = headers["webhook-id"] ?? "";
    const prediction_id = (JSON.parse(body) as { id: string }).id;
    const delivery = { prediction_id, event, webhook_id, body };
    const { random } = this.#network;
    this.#checks.webhookBegins(delivery, from);
    try {
      const text = await this.#network.exchange({
        ...{ from, label: `webhook ${event} ${webhook_id}`, text: body, signal: init.signal ?? undefined },
        serve: (_text, reply) => {
          this.calls += 1;
          this.#checks.webhookArrives(delivery);
          this.#verify(account, headers, body);
          const fails = random.chance(this.#network.rates.webhook);
          const how = fails ? random.pick(["status", "hangs", "reset", "taken, then reset"]) : "taken";
          if (how === "hangs") return;
          if (how.startsWith("taken")) this.#checks.webhookAnswered({ ...delivery, isTaken: true });
          if (how.endsWith("reset")) return reply({ error: new Broken("reset", false) });
          const retryAfter = random.chance(0.3) ? String(random.int(0, 5)) : null;
          reply({ text: JSON.stringify({ status: how === "taken" ? 200 : 503, retryAfter }) });
        },
      });
      const { status, retryAfter } = JSON.parse(text) as { status: number; retryAfter: string | null };
      return { status, headers: { get: () => retryAfter }, body: null };
    } finally {
      this.#checks.webhookEnds(prediction_id, from);
    }
  }

  #verify(account: string, headers: Record<string, string>, body: string): void {
    const signed = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`;
    const isRight = this.#generations(account).some((generation) => {
      const key = Buffer.from(webhookKey(this.#secret, account, generation).slice("whsec_".length), "base64");
      const signature = createHmac("sha256", key).update(signed).digest("base64");
      return (headers["webhook-signature"] ?? "").split(" ").includes(`v1,${signature}`);
    });
    if (!isRight) this.#checks.violation("signatures verify", `${headers["webhook-id"]} of ${account}`);
  }
}
