/** Who looks at everything from outside, by calls that nothing disturbs: whether it is at rest, and then whether all of it is right. */
import type { DeploymentObject } from "../../durable-objects/deployment.ts";
import type { Balance } from "../../durable-objects/ledger-contract.ts";
import type { AccountTerms, LedgerEntry } from "../../schema/ledger.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { isTerminal } from "../../schema/prediction-lifecycle.ts";
import { renderPrediction, viewOf } from "../../schema/render-prediction.ts";
import { accountTerms } from "../../workers/domain/rates.ts";
import { settingsOf } from "../../workers/env.ts";
import { checkBooks } from "./books.ts";
import type { Checks } from "./checks.ts";
import { Client } from "./clients.ts";
import type { EdgeWorker } from "./edge.ts";
import type { ObjectHost } from "./objects.ts";
import type { OriginHost } from "./origin-host.ts";
import type { Scenario } from "./scenario.ts";
import { checkStream } from "./streams.ts";

/** What a run is made of. */
interface Parts {
  scenario: Scenario;
  checks: Checks;
  host: ObjectHost;
  edge: EdgeWorker;
  origins: OriginHost[];
}

export class Auditor extends Client {
  readonly #is: Parts;
  /** predictions of which an admission was asked for under a key */
  readonly keys = new Map<string, Set<string>>();
  /** Cogway-Max-Cost of predictions */
  readonly limits = new Map<string, number>();

  constructor(parts: Parts) {
    super("auditor");
    this.#is = parts;
  }

  /** Why it is not at rest yet; null when it is. */
  async unrest(): Promise<string | null> {
    for (const [id, { life }] of this.#is.checks.stages) if (!isTerminal(life.state)) return `${id} is ${life.state}`;
    for (const origin of this.#is.origins) {
      if (origin.process === null) return `${origin.url} is down`;
      if (origin.journal.hasUnsent()) return `${origin.url} has events that nobody took`;
    }
    for (const slot of this.#is.host.slots.values()) {
      if (slot.binding !== "PREDICTIONS" || !slot.hasTable("outbox")) continue;
      const owed = slot.read<{ message: string }>("SELECT message FROM outbox LIMIT 1")[0];
      if (owed !== undefined) return `PREDICTIONS/${slot.name} owes ${owed.message}`;
      if (!slot.hasTable("webhooks")) continue;
      const untold = slot.read<{ id: string }>(
        "SELECT prediction_id AS id FROM webhooks WHERE due_at < ? LIMIT 1",
        Number.MAX_SAFE_INTEGER,
      )[0];
      if (untold !== undefined) return `a webhook of ${untold.id} waits`;
    }
    for (const slot of this.#is.host.slots.values()) {
      if (slot.binding !== "DEPLOYMENTS") continue;
      const is = await this.#see<Awaited<ReturnType<DeploymentObject["describe"]>>>(
        "DEPLOYMENTS",
        slot.name,
        "describe",
      );
      if (is.leases > 0 || is.queue_length > 0 || is.instances.length > 0) return `${slot.name}: ${JSON.stringify(is)}`;
    }
    for (const account of this.#is.scenario.accounts) {
      const listed = (await this.#listed(account)).sort();
      const there = [...this.#is.checks.known.values()]
        .filter(({ id, account_id }) => account_id === account && this.#is.checks.stages.has(id))
        .map(({ id }) => id)
        .sort();
      if (listed.join() !== there.join()) return `${account} lists ${listed.join()}, and there are ${there.join()}`;
    }
    return null;
  }

  async #see<T>(binding: string, name: string, method: string, ...args: unknown[]): Promise<T> {
    return (await this.#is.host.call(this, binding, name, method, args, true)) as T;
  }

  /** All pages of an account's list. */
  async #listed(account: string): Promise<string[]> {
    const ids: string[] = [];
    for (let before: { created_at: number; prediction_id: string } | null = null; ; ) {
      const query = { kind: "prediction", limit: 3, before };
      const page: { rows: { prediction_id: string; created_at: number }[]; more: boolean } = await this.#see(
        "ACCOUNTS",
        account,
        "list",
        query,
      );
      ids.push(...page.rows.map(({ prediction_id }) => prediction_id));
      const last = page.rows.at(-1);
      if (!page.more || last === undefined) return ids;
      before = { created_at: last.created_at, prediction_id: last.prediction_id };
    }
  }

  /** The last look, at rest. */
  async look(now: number): Promise<void> {
    const { checks, edge, host } = this.#is;
    const documents = new Map<string, PredictionDocument>();
    for (const { id, account_id, isAcknowledged } of checks.known.values()) {
      if (!checks.stages.has(id)) {
        if (isAcknowledged) checks.violation("every acknowledged one ends", `${id} is lost`);
        continue;
      }
      const object = id.slice(0, 1);
      const found = await this.#see<(PredictionDocument | null)[]>("PREDICTIONS", object, "getMany", [id], account_id);
      const [document] = found;
      if (document == null) {
        checks.unreadable(id);
        continue;
      }
      documents.set(id, document);
      checks.observed(document, now);
      const { instance } = host.wake(host.slot("PREDICTIONS", object), object);
      const says = (rule: string, detail: string): void => checks.violation(rule, detail);
      if (!document.data_removed) await checkStream(instance as Parameters<typeof checkStream>[0], document, says);
    }
    for (const [key, ids] of this.keys) {
      const made = [...ids].filter((id) => checks.stages.has(id));
      if (made.length > 1) checks.violation("a key makes one prediction", `${key}: ${made.join(", ")}`);
    }
    const view = viewOf(edge.envOf(this));
    checks.webhooksAtRest(documents, (document) => renderPrediction(document, view));
    await this.#books(documents);
  }

  /** What an account's row says about money. */
  #termsOf(account: string): AccountTerms {
    return accountTerms(settingsOf(this.#is.edge.envOf(this)), this.#is.scenario.terms[account] ?? {});
  }

  /** While it runs: what is spent and what is held for what runs are within each cap together. */
  async watchCaps(): Promise<void> {
    for (const account of this.#is.scenario.accounts) {
      const terms = this.#termsOf(account);
      const cap = terms.budget.day_micros;
      if (cap === null && terms.billing === "postpaid") continue;
      const { spent, reserved_micros, balance_micros, credits } = await this.#see<Balance>(
        "ACCOUNTS",
        account,
        "balance",
        terms,
      );
      if (cap !== null && spent.day_micros + reserved_micros > cap) {
        this.#is.checks.violation(
          "spending never passes a cap",
          `${account}: ${spent.day_micros} and ${reserved_micros} of ${cap}`,
        );
      }
      const left = balance_micros + credits.reduce((sum, { left_micros }) => sum + left_micros, 0);
      if (terms.billing === "prepaid" && left < 0)
        this.#is.checks.violation("spending never passes a cap", `${account} owes ${-left}`);
    }
  }

  /** Each end is metered and billed once, as its document says. */
  async #books(documents: Map<string, PredictionDocument>): Promise<void> {
    for (const account of this.#is.scenario.accounts) {
      const terms = this.#termsOf(account);
      const { reserved_micros } = await this.#see<Balance>("ACCOUNTS", account, "balance", terms);
      if (reserved_micros !== 0)
        this.#is.checks.violation("nothing is held at rest", `${account}: ${reserved_micros} micro-dollars`);
      const { entries } = await this.#see<{ entries: LedgerEntry[] }>("ACCOUNTS", account, "ledger", {
        after_seq: 0,
        limit: 1_000,
      });
      const ofAccount = [...documents.values()].filter(({ account_id }) => account_id === account);
      const isCapped = terms.billing === "prepaid" || terms.budget.day_micros !== null;
      checkBooks({ id: account, isCapped, entries, documents: ofAccount, limits: this.limits }, (rule, detail) =>
        this.#is.checks.violation(rule, detail),
      );
      const meters = await this.#see<{ prediction_id: string; meter: unknown }[]>("ACCOUNTS", account, "meters", 1_000);
      const own = [...documents.values()].filter(({ account_id }) => account_id === account);
      if (meters.length !== own.length)
        this.#is.checks.violation("each end is metered once", `${account}: ${meters.length} of ${own.length}`);
      for (const { prediction_id, meter } of meters) {
        const expected = JSON.stringify(documents.get(prediction_id)?.meter);
        if (JSON.stringify(meter) !== expected) {
          this.#is.checks.violation(
            "the books are the documents",
            `${prediction_id}: ${JSON.stringify(meter)}, not ${expected}`,
          );
        }
      }
    }
  }
}
