/**
 * Runs the example of each version of each public model once a day, as a real prediction of the operator that nobody pays for, and knows which versions fail.
 * One object for the catalog: 50,000 versions a day are one run in two seconds, and what they do happens elsewhere. It sleeps until an origin joins or the
 * catalog changes, then keeps time by its own alarm. What is to be run, and how, the Worker knows (canary-contract.ts).
 */
import { DurableObject } from "cloudflare:workers";
import {
  type CanaryResult,
  type CanaryState,
  firstCanary,
  isForsaken,
  nextCanary,
  resultOf,
  withResult,
} from "../schema/canaries.ts";
import { parseDuration } from "../schema/durations.ts";
import { newPredictionId } from "../schema/ids.ts";
import { OPERATOR_ACCOUNT_ID } from "../schema/tables/operator-seed.ts";
import { Alarms } from "./alarms.ts";
import type { CanaryApi, CanaryRun, CanaryRunsApi, CanaryVersion, ListedVersion } from "./canary-contract.ts";
import { whyNoRoom } from "./canary-room.ts";
import { CanaryStore } from "./canary-store.ts";
import { canaryRuns, deploymentStub, fleetStub, predictionStub, runCounter } from "./stubs.ts";

/** Canaries that run at the same time. */
const IN_FLIGHT_MAX = 4;
/** Versions that one turn looks at: most have no room where one has none. */
const LOOKED_AT_PER_TURN = 20;
const TURN_PAUSE_MS = 1_000;
/** While no host is there, nothing is looked at. */
const NO_HOST_PAUSE_MS = 60_000;
/** Versions that are read of the catalog at a time. */
const PAGE_ROWS = 200;
const WALK_INTERVAL_MS = 86_400_000;
/** A run that has not ended by then, its wait for an instance and the setup included, is ended. */
const RUN_MAX_MS = 600_000;
/** Behind that, one that was not heard of is asked for. */
const ASK_AFTER_MS = 30_000;
/** Nobody reads it again. */
const RETENTION_MS = 60_000;
/** Hosts that are looked at for room. */
const ORIGINS_MAX = 200;

export class CanaryObject extends DurableObject<Env> implements CanaryApi {
  readonly #store = new CanaryStore(this.ctx.storage.sql);
  readonly #alarms = new Alarms<"walk" | "run" | "ask">(this.ctx.storage);
  /** 0: the operator wants none */
  readonly #intervalMs = parseDuration(this.env.CANARY_INTERVAL) ?? 0;

  async wake(): Promise<void> {
    if (this.#intervalMs > 0) this.#alarms.setNoLaterThan("walk", Date.now() + WALK_INTERVAL_MS);
    if (this.#intervalMs > 0 && this.#store.isEmpty()) this.#alarms.set("walk", Date.now());
  }

  async changed(models: string[]): Promise<void> {
    if (this.#intervalMs === 0) return;
    const now = await this.runs().versionsOf(models, PAGE_ROWS);
    // Of a model with more versions the older ones are left to the walk.
    if (now.length < PAGE_ROWS) this.#store.keepOnly(models, now);
    for (const listed of now) await this.#see(listed, true);
    await this.wake();
    this.#arm();
  }

  async health(version: CanaryVersion): Promise<CanaryState | null> {
    return this.#store.state(version);
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run((name) => {
      if (this.#intervalMs === 0) return;
      if (name === "walk") return this.#walk();
      if (name === "ask") return this.#ask();
      return this.#turn();
    });
  }

  protected runs(): CanaryRunsApi {
    return canaryRuns(this.ctx);
  }

  // ---- which versions there are

  /** One page of the catalog; the rest follows in the next turn. Changes are told, so a walk finds only what was lost on the way. */
  async #walk(): Promise<void> {
    const cursor = this.#store.cursor();
    const asked_at = Date.now();
    const page = await this.runs().page(cursor, PAGE_ROWS);
    const last = page.at(-1);
    const isEnd = page.length < PAGE_ROWS || last === undefined;
    for (const listed of page) await this.#see(listed, false);
    this.#store.keepBetween(cursor, isEnd ? null : last, page, asked_at);
    this.#store.setCursor(isEnd ? null : last);
    this.#alarms.set("walk", Date.now() + (isEnd ? WALK_INTERVAL_MS : TURN_PAUSE_MS));
    this.#arm();
  }

  /** `isChanged`: its model was just made or changed, so an example may be there now. */
  async #see(listed: ListedVersion, isChanged: boolean): Promise<void> {
    const now = Date.now();
    const isUnhealthy = listed.is_latest && listed.unhealthy_since !== null;
    const known = this.#store.state(listed);
    if (known === null) {
      this.#store.insert(listed, firstCanary(isUnhealthy, this.#intervalMs, now, Math.random()), now);
      return;
    }
    if (isChanged && known.results[0]?.outcome === "not_run") this.#store.setDue(listed, now);
    // Another version than the one that was unhealthy may be the latest now: what is known of it counts, and nothing known is no word yet.
    const isTold = known.unhealthy_since !== null || known.last_success_at !== null;
    if (!listed.is_latest || listed.unhealthy_since === known.unhealthy_since) return;
    if (isTold) await this.runs().mark(listed, known.unhealthy_since);
    else if (isUnhealthy) this.#store.setDue(listed, now);
  }

  // ---- running them

  async #turn(): Promise<void> {
    const origins = await fleetStub(this.env).listOrigins(null, ORIGINS_MAX);
    if (!origins.some(({ state }) => state === "ready")) {
      this.#alarms.set("run", Date.now() + NO_HOST_PAUSE_MS);
      return;
    }
    for (const version of this.#store.due(Date.now(), LOOKED_AT_PER_TURN)) {
      if (this.#store.inFlight().length >= IN_FLIGHT_MAX) break;
      const prepared = await this.runs().prepare(version);
      if (prepared.kind === "gone") {
        this.#store.remove(version);
        continue;
      }
      if (prepared.kind === "not_run") {
        const outcome = prepared.is_lasting ? "not_run" : "skipped";
        await this.#record(version, { outcome, at: Date.now(), duration_ms: null, detail: prepared.detail });
        continue;
      }
      const { spec } = prepared.run;
      const detail = whyNoRoom(spec, await deploymentStub(this.env, spec.deployment_key).describe(), origins);
      if (detail === null) this.#start(version, prepared.run);
      else await this.#record(version, { outcome: "skipped", at: Date.now(), duration_ms: null, detail });
    }
    this.#arm();
  }

  /** Its id is kept before it is made, and its end is waited for behind the turn; {@link #ask} is for what this process loses. */
  #start(version: CanaryVersion, run: CanaryRun): void {
    const id = newPredictionId(this.env.SIGNING_SECRET, Number(this.env.PREDICTION_POOL_SIZE));
    const created_at = Date.now();
    this.#store.setRunning(version, id, created_at);
    this.#alarms.setNoLaterThan("ask", created_at + RUN_MAX_MS + ASK_AFTER_MS);
    const ended = predictionStub(this.env, id)
      .create({
        ...run,
        id,
        account_id: OPERATOR_ACCOUNT_ID,
        kind: "prediction",
        destination: null,
        deployment: null,
        batch: null,
        is_listed: false,
        is_canary: true,
        priority: 1,
        input_ref: null,
        created_at,
        deadline_at: created_at + RUN_MAX_MS,
        retention_ms: RETENTION_MS,
        source: "api",
        webhook: null,
        webhook_events_filter: null,
        wait_ms: RUN_MAX_MS,
      })
      .then(async ({ document }) => {
        const result = resultOf(document);
        if (result !== null) await this.#ended(version, id, result);
      })
      // It may run all the same.
      .catch(() => this.#alarms.setNoLaterThan("ask", Date.now() + ASK_AFTER_MS));
    this.ctx.waitUntil(ended);
  }

  /** Of runs whose end was not heard. */
  async #ask(): Promise<void> {
    for (const { running, ...version } of this.#store.inFlight()) {
      const document = await predictionStub(this.env, running).get(running, OPERATOR_ACCOUNT_ID);
      const detail = "It was lost before it began.";
      const lost: CanaryResult = { outcome: "skipped", at: Date.now(), duration_ms: null, detail };
      const result = document === null ? lost : resultOf(document);
      if (result !== null) await this.#ended(version, running, result);
    }
    if (this.#store.inFlight().length > 0) this.#alarms.set("ask", Date.now() + ASK_AFTER_MS);
  }

  async #ended(version: CanaryVersion, id: string, result: CanaryResult): Promise<void> {
    if (this.#store.running(version) !== id) return;
    try {
      await this.#record(version, result);
    } finally {
      // The turn that was full waits for this.
      this.#arm();
    }
  }

  async #record(version: CanaryVersion, result: CanaryResult): Promise<void> {
    const before = this.#store.state(version);
    if (before === null) return;
    const now = Date.now();
    const after = withResult(before, result);
    this.#store.save(version, after, nextCanary(result, this.#intervalMs, now, Math.random()));
    // Also where nothing changed: the model may be marked for an older version.
    const isLearned = result.outcome === "succeeded" || after.unhealthy_since !== null;
    if (isLearned && result.duration_ms !== null) await this.runs().mark(version, after.unhealthy_since);
    await this.#tell(version, after, result, now);
  }

  async #tell(version: CanaryVersion, state: CanaryState, result: CanaryResult, now: number): Promise<void> {
    const { unhealthy_since } = state;
    const seen_at = this.#store.firstSeenAt(version);
    if (unhealthy_since === null || !isForsaken(state, seen_at, now)) return;
    const used_at = Math.max(
      seen_at,
      (await runCounter(this.env, `${version.owner}/${version.name}`).lastRunAt()) ?? 0,
    );
    if (!isForsaken(state, used_at, now)) return;
    const error = state.results.find(({ outcome }) => outcome === "failed")?.detail ?? result.detail;
    await this.runs().tellOwner(version, { unhealthy_since, used_at, error });
    this.#store.setTold(version, unhealthy_since, now);
  }

  /** The next turn: when the next is due, but for what runs; a turn that is full goes on when one of its runs ended. */
  #arm(): void {
    const due = this.#store.nextDue();
    if (due === null || this.#store.inFlight().length >= IN_FLIGHT_MAX) this.#alarms.clear("run");
    else this.#alarms.set("run", Math.max(due, Date.now() + TURN_PAUSE_MS));
  }
}
