/** One run: the real objects between pretended clients, origins and receivers, from its seed to rest. */
import { AccountObject } from "../../durable-objects/account.ts";
import type { EnqueueRequest, Lease, Release } from "../../durable-objects/contracts.ts";
import { DeploymentObject } from "../../durable-objects/deployment.ts";
import { FleetObject } from "../../durable-objects/fleet.ts";
import { forgetShards } from "../../durable-objects/fleet-shards.ts";
import type { Balance } from "../../durable-objects/ledger-contract.ts";
import { forgetOrigins } from "../../durable-objects/origin-directory.ts";
import { PredictionObject } from "../../durable-objects/prediction.ts";
import type { AccountTerms, LedgerEntry } from "../../schema/ledger.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { isTerminal } from "../../schema/prediction-lifecycle.ts";
import { renderPrediction, viewOf } from "../../schema/render-prediction.ts";
import { accountTerms } from "../../workers/domain/rates.ts";
import { settingsOf } from "../../workers/env.ts";
import { checkBooks } from "./books.ts";
import { Bucket } from "./bucket.ts";
import { Checks } from "./checks.ts";
import { EdgeWorker, SIGNING_SECRET } from "./edge.ts";
import { Network, type Sender } from "./network.ts";
import { isConsequence, type ObjectClass, ObjectHost, type ObjectSlot } from "./objects.ts";
import { OriginHost } from "./origin.ts";
import { QueueOrder } from "./queue-order.ts";
import { Random, setRandom } from "./random.ts";
import { Receiver } from "./receiver.ts";
import { drawScenario, hardwareOf, type PlannedPrediction, type Scenario } from "./scenario.ts";
import { runAs, setTimeline, Timeline } from "./timeline.ts";

/** After the last fault everything is at rest by then. */
const REST_WITHIN_MS = 900_000;
/** How often what is spent is looked at. */
const CAPS_MS = 1_000;
/** How often it is looked for. */
const LOOK_MS = 500;
/** Creates that break off are made again, with their key, so often. */
const TRIES_MAX = 8;

export interface Outcome {
  seed: number;
  /** of everything that happened, in its order: equal in every run of the seed */
  hash: string;
  violations: string[];
  turns: number;
  crashes: number;
  predictions: number;
  virtual_ms: number;
  /** only when asked for */
  lines: string[] | null;
}

/** An object of the platform that is no part of this: takes what is told to it, and has nothing to say. */
class Listener {
  async add(): Promise<{ total: number }> {
    return { total: 0 };
  }
  async counted(): Promise<void> {}
  async version(): Promise<{ history: null }> {
    return { history: null };
  }
}

class Client implements Sender {
  readonly isAlive = true;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
  leave(send: () => void): void {
    send();
  }
}

export class World {
  readonly seed: number;
  readonly timeline = new Timeline();
  readonly random: Random;
  readonly scenario: Scenario;
  readonly network: Network;
  readonly checks: Checks;
  readonly order: QueueOrder;
  readonly host: ObjectHost;
  readonly edge: EdgeWorker;
  readonly origins: OriginHost[];
  readonly bucket: Bucket;
  readonly #auditor = new Client("auditor");
  /** Cogway-Max-Cost of predictions */
  readonly #limits = new Map<string, number>();
  #clientsLeft = 0;
  #isAtRest = false;
  #unrest = "";

  constructor(seed: number) {
    this.seed = seed;
    this.random = new Random(seed);
    setRandom(this.random);
    setTimeline(this.timeline);
    this.scenario = drawScenario(seed, this.random);
    this.network = new Network(this.timeline, this.random, this.scenario.rates);
    this.checks = new Checks(
      (line) => this.timeline.trace(line),
      () => this.timeline.now,
    );
    const fault = (message: string): void => this.checks.violation("nothing fails by itself", message);
    this.order = new QueueOrder((rule, detail) => this.checks.violation(rule, detail));
    this.bucket = new Bucket(this.network);
    const receiver = new Receiver(this.network, this.checks, SIGNING_SECRET, (account) => this.#generations(account));
    this.edge = new EdgeWorker(this.network, this.scenario, { bucket: this.bucket, receiver, fault });
    const real: Record<string, unknown> = {
      ACCOUNTS: AccountObject,
      DEPLOYMENTS: DeploymentObject,
      FLEETS: FleetObject,
      PREDICTIONS: PredictionObject,
    };
    const classes = new Proxy(real, { get: (known, name) => known[String(name)] ?? Listener });
    this.host = new ObjectHost(
      this.network,
      classes as Record<string, ObjectClass>,
      (actor) => this.edge.envOf(actor),
      {
        fault,
        committed: (slot) => this.#committed(slot),
        called: ({ binding, name, method, args }) => this.#called(binding, name, method, args),
        answered: ({ binding, method, args, result }) => {
          if (binding === "DEPLOYMENTS" && method === "enqueue") this.order.answered(args[0] as never, result as never);
        },
      },
    );
    this.origins = Array.from({ length: this.scenario.origins }, (_, n) => this.#origin(n));
    this.edge.connect(this.host, this.origins);
    for (const method of ["error", "warn", "log", "info"] as const) console[method] = (...said) => this.#logged(said);
  }

  #origin(n: number): OriginHost {
    const { scenario, checks, random, timeline } = this;
    return new OriginHost(
      n,
      this.network,
      this.edge,
      {
        accepted: (host, record, running) => {
          checks.attemptAccepted(record);
          const spec = scenario.specs.find(({ slots }) => slots > 0);
          const slots = this.order.slotsOf(record.instance_id) ?? spec?.slots ?? 1;
          checks.slotsHeld(`${host.url}/${record.instance_id}`, slots, [...running, record]);
        },
        started: () => undefined,
        finished: (key, end) => checks.attemptFinished(key, end),
      },
      {
        sku: hardwareOf(this.seed),
        capacity: scenario.instancesPerOrigin,
        setupFails: () => timeline.now < scenario.faultsUntil_ms && random.chance(scenario.setupFailure),
      },
    );
  }

  #logged(said: unknown[]): void {
    const line = said.map(String).join(" ");
    this.timeline.trace(`log ${line}`);
    if (/"error"|Error:/.test(line) && !isConsequence(line) && !/TimeoutError/.test(line)) {
      this.checks.violation("nothing fails by itself", line);
    }
  }

  #generations(account: string): string[] {
    const slot = this.host.slots.get(`ACCOUNTS/${account}`);
    if (slot?.hasTable("webhook_keys") !== true) return [];
    return slot.read<{ generation: string }>("SELECT generation FROM webhook_keys").map(({ generation }) => generation);
  }

  #committed(slot: ObjectSlot): void {
    if (slot.binding === "PREDICTIONS") this.checks.committedPredictions(slot);
    if (slot.binding === "DEPLOYMENTS" && slot.life !== null) {
      const { life } = slot;
      runAs(life, () => {
        void (life.instance as DeploymentObject)
          .describe()
          .then((described) => this.order.described(slot.name, described));
      });
    }
  }

  #called(binding: string, name: string, method: string, args: unknown[]): void {
    if (binding === "ACCOUNTS" && method === "settle") {
      for (const { prediction_id } of args[0] as { prediction_id: string }[]) this.checks.settled(prediction_id);
    }
    if (binding === "ACCOUNTS" && method === "admit") {
      const { prediction_id } = args[0] as { prediction_id: string };
      const known = { id: prediction_id, account_id: name, isAcknowledged: false, webhook: false, filter: null };
      if (!this.checks.known.has(prediction_id)) this.checks.known.set(prediction_id, known);
    }
    if (binding === "PREDICTIONS" && method === "create") {
      const { id, max_cost_micros, webhook, webhook_events_filter } = args[0] as {
        max_cost_micros: number | null;
        id: string;
        webhook: string | null;
        webhook_events_filter: string[] | null;
      };
      if (max_cost_micros !== null) this.#limits.set(id, max_cost_micros);
      const known = this.checks.known.get(id);
      if (known !== undefined) Object.assign(known, { webhook: webhook !== null, filter: webhook_events_filter });
    }
    if (binding === "DEPLOYMENTS" && method === "enqueue") this.order.asked(name, args[0] as EnqueueRequest);
    if (binding === "DEPLOYMENTS" && method === "release") {
      for (const release of args[0] as Release[])
        if (release.ran_ms > 0 || release.instance_gone !== undefined) this.checks.released(release);
    }
    if (binding === "PREDICTIONS" && method === "leasesGranted") this.order.granted(args[0] as Lease[]);
  }

  // ---- the run

  async run(): Promise<void> {
    forgetOrigins();
    forgetShards();
    const { timeline, scenario } = this;
    // Origins join one after another: each by a token of its own.
    for (const origin of this.origins) {
      origin.start();
      await timeline.run(timeline.now + 60_000, () => origin.origin_id !== null);
    }
    for (const [n, planned] of scenario.predictions.entries()) {
      const client = new Client(`client ${n}`);
      this.#clientsLeft += 1;
      runAs(client, () => {
        void this.#ask(client, planned, n)
          .catch((error: unknown) =>
            this.checks.violation("nothing fails by itself", `client: ${(error as Error).stack}`),
          )
          .finally(() => {
            this.#clientsLeft -= 1;
          });
      });
    }
    this.#breakThings();
    const watch = (): void => {
      runAs(this.#auditor, () => {
        void this.#watchCaps().finally(() => timeline.after(CAPS_MS, null, watch));
      });
    };
    watch();
    timeline.at(scenario.faultsUntil_ms, null, () => this.#heal());
    await timeline.run(scenario.faultsUntil_ms + REST_WITHIN_MS, () => this.#isAtRest);
    if (!this.#isAtRest) this.checks.violation("everything ends", this.#unrest);
    else await this.#look();
    this.host.close();
  }

  #breakThings(): void {
    const { timeline, random, network } = this;
    const again = (): void => {
      if (timeline.now >= this.scenario.faultsUntil_ms) return;
      const { rates } = network;
      if (random.chance(rates.killAll)) {
        timeline.trace("kill -9 of the isolate");
        this.host.crashAll();
        this.edge.kill();
      }
      for (const origin of this.origins) {
        if (random.chance(rates.originCrash)) origin.crash(random.chance(0.2));
        if (random.chance(rates.instanceCrash)) {
          const pick = random.int(0, 5);
          const restarts = random.chance(0.5);
          const { process } = origin;
          if (process !== null) timeline.after(0, process, () => process.crashInstance(pick, restarts));
        }
        if (random.chance(rates.partition)) origin.partedUntil = timeline.now + random.int(500, 40_000);
      }
      timeline.after(1_000, null, again);
    };
    timeline.after(random.between(0, 1_000), null, again);
  }

  #heal(): void {
    this.timeline.trace("from here on everything works");
    this.network.heal();
    for (const origin of this.origins) origin.partedUntil = 0;
    const again = (): void => {
      if (this.#isAtRest) return;
      runAs(this.#auditor, () => {
        void this.#unrestOf().then((why) => {
          this.#unrest = why ?? "";
          this.#isAtRest = why === null;
          this.timeline.after(LOOK_MS, null, again);
        });
      });
    };
    this.timeline.after(LOOK_MS, null, again);
  }

  // ---- clients

  async #ask(client: Client, planned: PlannedPrediction, n: number): Promise<void> {
    const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
    await sleep(planned.at_ms);
    const ids = new Set<string>();
    for (let turn = 0; turn <= (planned.key === null ? 0 : planned.repeats); turn++) {
      const id = await this.#create(client, planned, n, sleep);
      if (id !== null) ids.add(id);
    }
    if (ids.size > 1) this.checks.violation("a key makes one prediction", [...ids].join(", "));
    const [id] = ids;
    if (id === undefined) return;
    const cancels = planned.canceled_after_ms === null ? Promise.resolve() : this.#cancel(client, planned, id, sleep);
    for (let pause = this.random.int(50, 400); ; pause = Math.min(pause * 2, 5_000)) {
      await sleep(pause);
      const asked = this.timeline.now;
      const document = await this.edge.get(client, id, planned.account).catch(() => undefined);
      if (document === null) return this.checks.unreadable(id);
      if (document === undefined) continue;
      this.checks.observed(document, asked);
      if (isTerminal(document.state)) break;
    }
    await cancels;
  }

  async #create(
    client: Client,
    planned: PlannedPrediction,
    n: number,
    sleep: (ms: number) => Promise<void>,
  ): Promise<string | null> {
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const asked = this.timeline.now;
      const created = await this.edge.create(client, planned, `body ${n}`).catch(() => null);
      if (created?.kind === "created") {
        this.checks.acknowledged(created.id);
        if (created.document !== null) this.checks.observed(created.document, asked);
        return created.id;
      }
      if (planned.key === null || created?.retry === false) return null;
      await sleep(this.random.int(100, 15_000));
    }
    return null;
  }

  async #cancel(
    client: Client,
    planned: PlannedPrediction,
    id: string,
    sleep: (ms: number) => Promise<void>,
  ): Promise<void> {
    await sleep(planned.canceled_after_ms ?? 0);
    for (let tries = 0; tries < 3; tries++) {
      const asked = this.timeline.now;
      const document = await this.edge.cancel(client, id, planned.account).catch(() => undefined);
      if (document === null) return this.checks.unreadable(id);
      if (document === undefined) continue;
      this.checks.observed(document, asked);
      if (isTerminal(document.state)) return;
    }
  }

  // ---- at rest

  /** Why it is not at rest yet; null when it is. */
  async #unrestOf(): Promise<string | null> {
    if (this.#clientsLeft > 0) return `${this.#clientsLeft} clients wait`;
    for (const [id, { life }] of this.checks.stages) if (!isTerminal(life.state)) return `${id} is ${life.state}`;
    for (const origin of this.origins) {
      if (origin.process === null) return `${origin.url} is down`;
      if (origin.hasUnsent()) return `${origin.url} has events that nobody took`;
    }
    for (const slot of this.host.slots.values()) {
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
    for (const slot of this.host.slots.values()) {
      if (slot.binding !== "DEPLOYMENTS") continue;
      const is = await this.#see<Awaited<ReturnType<DeploymentObject["describe"]>>>(
        "DEPLOYMENTS",
        slot.name,
        "describe",
      );
      if (is.leases > 0 || is.queue_length > 0 || is.instances.length > 0) return `${slot.name}: ${JSON.stringify(is)}`;
    }
    for (const account of this.scenario.accounts) {
      const listed = (await this.#listed(account)).sort();
      const there = [...this.checks.known.values()]
        .filter(({ id, account_id }) => account_id === account && this.checks.stages.has(id))
        .map(({ id }) => id)
        .sort();
      if (listed.join() !== there.join()) return `${account} lists ${listed.join()}, and there are ${there.join()}`;
    }
    return null;
  }

  async #see<T>(binding: string, name: string, method: string, ...args: unknown[]): Promise<T> {
    return (await this.host.call(this.#auditor, binding, name, method, args, true)) as T;
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
  async #look(): Promise<void> {
    const { checks, timeline } = this;
    let isDone = false;
    const look = async (): Promise<void> => {
      const documents = new Map<string, PredictionDocument>();
      for (const { id, account_id, isAcknowledged } of checks.known.values()) {
        if (!checks.stages.has(id)) {
          if (isAcknowledged) checks.violation("every acknowledged one ends", `${id} is lost`);
          continue;
        }
        const [document] = await this.#see<(PredictionDocument | null)[]>(
          "PREDICTIONS",
          id.slice(0, 1),
          "getMany",
          [id],
          account_id,
        );
        if (document == null) checks.unreadable(id);
        else {
          documents.set(id, document);
          checks.observed(document, timeline.now);
        }
      }
      const view = viewOf(this.edge.envOf(this.#auditor));
      checks.webhooksAtRest(documents, (document) => renderPrediction(document, view));
      await this.#books(documents);
    };
    runAs(this.#auditor, () => {
      void look()
        .catch((error: unknown) => checks.violation("nothing fails by itself", `look: ${(error as Error).stack}`))
        .finally(() => {
          isDone = true;
        });
    });
    await timeline.run(timeline.now + 60_000, () => isDone);
    if (!isDone) checks.violation("nothing fails by itself", "the last look hangs");
  }

  /** What an account's row says about money. */
  #termsOf(account: string): AccountTerms {
    return accountTerms(settingsOf(this.edge.envOf(this.#auditor)), this.scenario.terms[account] ?? {});
  }

  /** While it runs: what is spent and what is held for what runs are within each cap together. */
  async #watchCaps(): Promise<void> {
    for (const account of this.scenario.accounts) {
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
        this.checks.violation(
          "spending never passes a cap",
          `${account}: ${spent.day_micros} and ${reserved_micros} of ${cap}`,
        );
      }
      const left = balance_micros + credits.reduce((sum, { left_micros }) => sum + left_micros, 0);
      if (terms.billing === "prepaid" && left < 0)
        this.checks.violation("spending never passes a cap", `${account} owes ${-left}`);
    }
  }

  /** Each end is metered and billed once, as its document says. */
  async #books(documents: Map<string, PredictionDocument>): Promise<void> {
    for (const account of this.scenario.accounts) {
      const terms = this.#termsOf(account);
      const { reserved_micros } = await this.#see<Balance>("ACCOUNTS", account, "balance", terms);
      if (reserved_micros !== 0)
        this.checks.violation("nothing is held at rest", `${account}: ${reserved_micros} micro-dollars`);
      const { entries } = await this.#see<{ entries: LedgerEntry[] }>("ACCOUNTS", account, "ledger", {
        after_seq: 0,
        limit: 1_000,
      });
      const ofAccount = [...documents.values()].filter(({ account_id }) => account_id === account);
      const isCapped = terms.billing === "prepaid" || terms.budget.day_micros !== null;
      checkBooks({ id: account, isCapped, entries, documents: ofAccount, limits: this.#limits }, (rule, detail) =>
        this.checks.violation(rule, detail),
      );
      const meters = await this.#see<{ prediction_id: string; meter: unknown }[]>("ACCOUNTS", account, "meters", 1_000);
      const own = [...documents.values()].filter(({ account_id }) => account_id === account);
      if (meters.length !== own.length)
        this.checks.violation("each end is metered once", `${account}: ${meters.length} of ${own.length}`);
      for (const { prediction_id, meter } of meters) {
        const expected = JSON.stringify(documents.get(prediction_id)?.meter);
        if (JSON.stringify(meter) !== expected) {
          this.checks.violation(
            "the books are the documents",
            `${prediction_id}: ${JSON.stringify(meter)}, not ${expected}`,
          );
        }
      }
    }
  }
}

/** Runs a seed to its end. */
export async function runSeed(seed: number, keepsLines = false): Promise<Outcome> {
  const world = new World(seed);
  if (keepsLines) world.timeline.lines = [];
  await world.run();
  return {
    seed,
    hash: world.timeline.hash(),
    violations: world.checks.violations,
    turns: world.timeline.turns,
    crashes: world.host.crashes,
    predictions: world.checks.stages.size,
    virtual_ms: Math.round(world.timeline.now),
    lines: world.timeline.lines,
  };
}
