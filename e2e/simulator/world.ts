/** One run: the real objects between pretended clients, origins and receivers, from its seed to rest. */
import { AccountObject } from "../../durable-objects/account.ts";
import { DeploymentObject } from "../../durable-objects/deployment.ts";
import type { EnqueueRequest, Lease, Release } from "../../durable-objects/deployment-contract.ts";
import { FleetObject } from "../../durable-objects/fleet.ts";
import { forgetShards } from "../../durable-objects/fleet-shards.ts";
import { forgetOrigins } from "../../durable-objects/origin-directory.ts";
import { PredictionObject } from "../../durable-objects/prediction.ts";
import type { CreatePrediction } from "../../durable-objects/prediction-contract.ts";
import { Auditor } from "./audit.ts";
import { Bucket } from "./bucket.ts";
import { Checks } from "./checks.ts";
import { Client, Clients } from "./clients.ts";
import { EdgeWorker, SIGNING_SECRET } from "./edge.ts";
import { Network } from "./network.ts";
import type { ObjectSlot } from "./object-life.ts";
import { isConsequence, type ObjectClass, ObjectHost } from "./objects.ts";
import { OriginHost } from "./origin-host.ts";
import { QueueOrder } from "./queue-order.ts";
import { Random, setRandom } from "./random.ts";
import { Receiver } from "./receiver.ts";
import { drawScenario, hardwareOf, type Scenario } from "./scenario.ts";
import { runAs, setTimeline, Timeline } from "./timeline.ts";

/** After the last fault everything is at rest by then. */
const REST_WITHIN_MS = 900_000;
/** How often what is spent is looked at. */
const CAPS_MS = 1_000;
/** How often it is looked for. */
const LOOK_MS = 500;

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
  readonly #auditor: Auditor;
  readonly #clients: Clients;
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
    this.#auditor = new Auditor(this);
    this.#clients = new Clients(this.network, this.edge, this.checks);
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
    // Lane 0 tells what all have; what another one holds of an instance is a part of that.
    if (slot.binding === "DEPLOYMENTS" && slot.life !== null && !slot.name.includes("#")) {
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
      const { prediction_id, idempotency } = args[0] as { prediction_id: string; idempotency: { key: string } | null };
      const unknown = { webhook: false, filter: null, deadline_at: null, isIdempotent: true };
      const known = { id: prediction_id, account_id: name, isAcknowledged: false, ...unknown };
      if (idempotency !== null) {
        const key = `${name} ${idempotency.key}`;
        this.#auditor.keys.set(key, (this.#auditor.keys.get(key) ?? new Set()).add(prediction_id));
      }
      if (!this.checks.known.has(prediction_id)) this.checks.known.set(prediction_id, known);
    }
    if (binding === "PREDICTIONS" && method === "create") {
      const {
        id,
        max_cost_micros = null,
        webhook,
        webhook_events_filter: filter,
        deadline_at,
        spec,
      } = args[0] as CreatePrediction;
      if (max_cost_micros !== null) this.#auditor.limits.set(id, max_cost_micros);
      const known = this.checks.known.get(id);
      const told = { webhook: webhook !== null, filter, deadline_at, isIdempotent: spec.idempotent };
      if (known !== undefined) Object.assign(known, told);
    }
    if (binding === "DEPLOYMENTS" && method === "enqueue") this.order.asked(name, args[0] as EnqueueRequest);
    if (binding === "DEPLOYMENTS" && method === "release") {
      for (const release of args[0] as Release[]) {
        this.order.left(release);
        if (release.ran_ms > 0 || release.instance_gone !== undefined) this.checks.released(release);
      }
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
        void this.#clients
          .ask(client, planned, n)
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
        // An account that crashes meanwhile is looked at the next time.
        void this.#auditor
          .watchCaps()
          .catch(() => undefined)
          .finally(() => timeline.after(CAPS_MS, null, watch));
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

  async #unrestOf(): Promise<string | null> {
    return this.#clientsLeft > 0 ? `${this.#clientsLeft} clients wait` : this.#auditor.unrest();
  }

  /** The last look. */
  async #look(): Promise<void> {
    const { checks, timeline } = this;
    let isDone = false;
    runAs(this.#auditor, () => {
      void this.#auditor
        .look(timeline.now)
        .catch((error: unknown) => checks.violation("nothing fails by itself", `look: ${(error as Error).stack}`))
        .finally(() => {
          isDone = true;
        });
    });
    await timeline.run(timeline.now + 60_000, () => isDone);
    if (!isDone) checks.violation("nothing fails by itself", "the last look hangs");
  }

  #heal(): void {
    this.timeline.trace("from here on everything works");
    this.network.heal();
    for (const origin of this.origins) origin.partedUntil = 0;
    const again = (): void => {
      if (this.#isAtRest) return;
      runAs(this.#auditor, () => {
        const looked = this.#unrestOf().catch((error: unknown) => String(error));
        void looked.then((why) => {
          this.#unrest = why ?? "";
          this.#isAtRest = why === null;
          this.timeline.after(LOOK_MS, null, again);
        });
      });
    };
    this.timeline.after(LOOK_MS, null, again);
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
