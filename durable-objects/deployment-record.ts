/**
 * What a deployment knows of itself, in its SQLite: the tables, how it runs now, how older releases ran that still have work, and facts of its history.
 * Only loads and saves, inside a group commit.
 *
 * A boot key names what an instance is booted with: all of a release but the bounds of its instances. A prediction runs on an instance with the key of
 * its own release, however many releases came meanwhile; how to boot older ones is kept while anything in the queue or any instance carries their key.
 */
import { sha256Hex } from "../schema/ids.ts";
import type { RunHistory } from "../schema/run-history.ts";
import type { LaneFacts } from "./deployment-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS queue (
  arrival INTEGER PRIMARY KEY AUTOINCREMENT,
  prediction_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  account_id TEXT NOT NULL,
  enqueued_at INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  boot_key TEXT NOT NULL,
  turn INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  is_cold INTEGER NOT NULL DEFAULT 0,
  UNIQUE (prediction_id, attempt)
);
CREATE TABLE IF NOT EXISTS leases (
  prediction_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  account_id TEXT NOT NULL,
  instance_id TEXT NOT NULL,
  origin_id TEXT NOT NULL,
  leased_at INTEGER NOT NULL,
  queue_ms INTEGER NOT NULL DEFAULT 0,
  is_cold INTEGER NOT NULL DEFAULT 0,
  renewed_at INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (prediction_id, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
  instance_id TEXT PRIMARY KEY,
  origin_id TEXT NOT NULL,
  boot_key TEXT,
  state TEXT NOT NULL,
  slots INTEGER NOT NULL,
  placed_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  last_used_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deployment (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  spec TEXT NOT NULL,
  facts TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS older_specs (
  boot_key TEXT PRIMARY KEY,
  spec TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arrivals (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  arrivals TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS decisions (
  n INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  wanted_before INTEGER NOT NULL,
  wanted INTEGER NOT NULL,
  reason TEXT NOT NULL,
  measures TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS histories (
  model TEXT NOT NULL,
  version TEXT NOT NULL,
  history TEXT NOT NULL,
  PRIMARY KEY (model, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lanes (
  lane INTEGER PRIMARY KEY,
  n INTEGER NOT NULL,
  is_resting INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS lane_slots (
  lane INTEGER NOT NULL,
  instance_id TEXT NOT NULL,
  slots INTEGER NOT NULL,
  leased INTEGER NOT NULL,
  PRIMARY KEY (lane, instance_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lane_demand (
  lane INTEGER NOT NULL,
  boot_key TEXT NOT NULL,
  queued INTEGER NOT NULL,
  waiting_since INTEGER NOT NULL,
  is_refused INTEGER NOT NULL,
  PRIMARY KEY (lane, boot_key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leases_by_instance ON leases (instance_id);
CREATE INDEX IF NOT EXISTS queue_by_priority ON queue (refused, priority, turn, arrival);
CREATE INDEX IF NOT EXISTS queue_by_account_priority ON queue (account_id, priority, turn);
`;

/** Columns that tables of earlier releases lack, with what their rows mean. The only boot key of the first one is that of the spec it has. */
const LATER_COLUMNS = [
  ["queue", "priority", "INTEGER NOT NULL DEFAULT 0"],
  ["queue", "boot_key", "TEXT NOT NULL DEFAULT ''"],
  ["leases", "account_id", "TEXT NOT NULL DEFAULT ''"],
  ["instances", "boot_key", "TEXT"],
  ["queue", "is_cold", "INTEGER NOT NULL DEFAULT 0"],
  ["leases", "queue_ms", "INTEGER NOT NULL DEFAULT 0"],
  ["leases", "is_cold", "INTEGER NOT NULL DEFAULT 0"],
  ["leases", "renewed_at", "INTEGER NOT NULL DEFAULT 0"],
] as const;

/** What a deployment knows of itself, beside its queue. */
export interface DeploymentFacts extends LaneFacts {
  /** runs that their model's counter has not been told, by model */
  runs: Record<string, number>;
  /** the report that is on its way; told again until it is acknowledged */
  report: { model: string; seq: number; runs: number; histories?: Record<string, RunHistory> } | null;
  last_report_seq: number;
  /** when the current way to boot became the current one */
  released_at: number;
  /** the end of the newest prediction that ran or waited here */
  last_used_at: number | null;
  /** bounds of its instances were told by `configure` */
  is_configured: boolean;
  /** which lane this object is */
  lane: number;
  /** of a lane but 0: number of its last report */
  last_lane_report: number;
}

const NEW_FACTS: DeploymentFacts = {
  boot_ms: null,
  setup_ms: null,
  run_ms: null,
  setup_failures: 0,
  setup_error: null,
  hold_until: 0,
  refusal: "The model could not be set up.",
  runs: {},
  report: null,
  last_report_seq: 0,
  released_at: 0,
  last_used_at: null,
  is_configured: false,
  is_retired: false,
  unpaid: null,
  lane: 0,
  lanes: 1,
  last_lane_report: 0,
};

interface Self {
  spec: RunSpec;
  boot_key: string;
  /** as stored, to see a change */
  specText: string;
  facts: DeploymentFacts;
}

/** What an instance is booted with. Releases that differ in the bounds of their instances alone have an equal one. */
export function bootKeyOf({ version_id, mode, weights, hardware, egress }: RunSpec): string {
  const booted = [version_id, mode, weights?.sha256 ?? null, hardware, ...(egress === true ? ["egress"] : [])];
  return sha256Hex(JSON.stringify(booted)).slice(0, 16);
}

/** What instances need of a spec, which may be as an earlier release of this software wrote it. What only its prediction needs is left out. */
export function instanceSpec(spec: RunSpec | Omit<RunSpec, "release" | "mode" | "weights">): RunSpec {
  const { prediction_weights: _weights, ...rest } = { release: 0, mode: "predict" as const, weights: null, ...spec };
  return rest;
}

/** As the first release of this software wrote them: all runs are of one model. */
type StoredFacts = Partial<Omit<DeploymentFacts, "runs" | "report">> & {
  runs?: number | DeploymentFacts["runs"];
  report?: { model?: string; seq: number; runs: number } | null;
};

function completeFacts({ runs = {}, report = null, ...stored }: StoredFacts, model: string): DeploymentFacts {
  return {
    ...NEW_FACTS,
    ...stored,
    runs: typeof runs === "number" ? { [model]: runs } : runs,
    report: report === null ? null : { model, ...report },
  };
}

export class DeploymentRecord {
  protected readonly sql: SqlStorage;
  #ready = false;
  #self: Self | null = null;
  /** false only when there are no older specs */
  #mayHaveOlder = true;

  constructor(sql: SqlStorage) {
    this.sql = sql;
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#ready = false;
    this.#self = null;
    this.#mayHaveOlder = true;
  }

  /** False while nothing was ever enqueued or configured: then there is nothing to read. */
  exists(): boolean {
    return this.#open() && this.#load() !== null;
  }

  /** Whether there are tables; those of an earlier release of this software get what they lack. */
  #open(): boolean {
    if (this.#ready) return true;
    if (!this.#hasTable("deployment")) return false;
    if (!this.#hasTable("lane_demand")) this.#upgrade();
    this.#ready = true;
    return true;
  }

  #hasTable(name: string): boolean {
    return this.sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", name).toArray().length > 0;
  }

  #upgrade(): void {
    const hasBootKeys = this.#hasTable("older_specs");
    for (const [table, column, type] of LATER_COLUMNS) {
      const known = this.sql.exec("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", table, column).toArray();
      if (known.length === 0) this.sql.exec(`ALTER TABLE ${table} ADD COLUMN ${column} ${type}`);
    }
    this.sql.exec("DROP INDEX IF EXISTS queue_by_turn; DROP INDEX IF EXISTS queue_by_account;");
    this.sql.exec(TABLES);
    const self = this.#load();
    if (self === null || hasBootKeys) return;
    this.sql.exec("UPDATE queue SET boot_key = ?", self.boot_key);
    this.sql.exec("UPDATE instances SET boot_key = ?", self.boot_key);
  }

  /**
   * Takes in how to run, and answers its boot key. A release that is older than the known one stays beside it, for what was created on it. With an equal
   * one, the bounds of instances that `configure` told stay: a spec that comes with a prediction may have been remembered for some seconds.
   */
  saveSpec(wanted: RunSpec, now: number, byConfigure: boolean): string {
    if (!this.#open()) {
      this.sql.exec(TABLES);
      this.#ready = true;
    }
    const self = this.#load();
    if (self === null) {
      const facts = { ...NEW_FACTS, is_configured: byConfigure };
      return this.#replaceSelf(wanted, bootKeyOf(wanted), facts).boot_key;
    }
    if (wanted.release < self.spec.release && !(byConfigure && self.facts.is_retired)) {
      const boot_key = bootKeyOf(wanted);
      if (boot_key !== self.boot_key) this.#keepOlder(boot_key, JSON.stringify(wanted));
      return boot_key;
    }
    // Models of one content, and fine-tunes on the instances of their base, differ in their names and in where their content lies.
    const isBoundByOld = !byConfigure && self.facts.is_configured && wanted.release === self.spec.release;
    const { min_instances, max_instances } = self.spec;
    const from = self.spec.package ?? wanted.package;
    const names = { model: self.spec.model, ...(from === undefined ? {} : { package: from }) };
    const pinned = wanted.release === self.spec.release ? { ...wanted, ...names } : wanted;
    const spec = isBoundByOld ? { ...pinned, min_instances, max_instances } : pinned;
    const { is_configured, is_retired } = self.facts;
    const isKnown = !byConfigure || (is_configured && !is_retired);
    if (isKnown && JSON.stringify(spec) === self.specText) return self.boot_key;
    const boot_key = bootKeyOf(spec);
    const facts = { ...self.facts, is_configured: is_configured || byConfigure };
    if (byConfigure) facts.is_retired = false;
    if (boot_key !== self.boot_key) {
      this.#keepOlder(self.boot_key, self.specText);
      this.sql.exec("DELETE FROM older_specs WHERE boot_key = ?", boot_key);
      // Its own history and its failures say nothing of the new one.
      Object.assign(facts, { released_at: now, boot_ms: null, setup_ms: null, run_ms: null });
      Object.assign(facts, { setup_failures: 0, setup_error: null, hold_until: 0 });
    }
    return this.#replaceSelf(spec, boot_key, facts).boot_key;
  }

  #replaceSelf(spec: RunSpec, boot_key: string, facts: DeploymentFacts): Self {
    const specText = JSON.stringify(spec);
    this.#self = { spec, boot_key, specText, facts };
    this.sql.exec("INSERT OR REPLACE INTO deployment VALUES (1, ?, ?)", specText, JSON.stringify(facts));
    return this.#self;
  }

  #keepOlder(boot_key: string, specText: string): void {
    this.#mayHaveOlder = true;
    this.sql.exec("INSERT OR REPLACE INTO older_specs VALUES (?, ?)", boot_key, specText);
  }

  /** How to boot what carries this key; null when nothing does any more. */
  specOf(bootKey: string): RunSpec | null {
    const { spec, boot_key } = this.#require();
    if (bootKey === boot_key) return spec;
    const row = this.sql
      .exec<{ spec: string }>("SELECT spec FROM older_specs WHERE boot_key = ?", bootKey)
      .toArray()[0];
    return row === undefined ? null : instanceSpec(JSON.parse(row.spec) as RunSpec);
  }

  /**
   * The boot key of an instance that reports itself before the answer of its placement; null where its version does not tell: weights, which it does
   * not name, must not be mistaken.
   */
  bootKeyOfReport(versionId: string): string | null {
    const { spec, boot_key } = this.#require();
    const older = this.sql.exec<{ spec: string }>("SELECT spec FROM older_specs").toArray();
    const others = older.map((row) => instanceSpec(JSON.parse(row.spec) as RunSpec));
    const isCertain = spec.weights === null && others.every((other) => other.version_id !== versionId);
    return isCertain && spec.version_id === versionId ? boot_key : null;
  }

  /** Whether something may still run or wait that was created on an older release. */
  hasOlderSpecs(): boolean {
    return this.#mayHaveOlder;
  }

  /** Forgets how to boot what nothing carries the key of. */
  deleteUnusedSpecs(): void {
    if (!this.#mayHaveOlder) return;
    this.sql.exec(
      `DELETE FROM older_specs WHERE boot_key NOT IN (SELECT boot_key FROM queue)
        AND boot_key NOT IN (SELECT boot_key FROM instances WHERE boot_key IS NOT NULL)
        AND boot_key NOT IN (SELECT boot_key FROM lane_demand)`,
    );
    this.#mayHaveOlder = this.sql.exec("SELECT 1 FROM older_specs LIMIT 1").toArray().length > 0;
  }

  #load(): Self | null {
    if (this.#self !== null) return this.#self;
    const row = this.sql.exec<{ spec: string; facts: string }>("SELECT spec, facts FROM deployment").toArray()[0];
    if (row === undefined) return null;
    const spec = instanceSpec(JSON.parse(row.spec) as RunSpec);
    const facts = completeFacts(JSON.parse(row.facts) as StoredFacts, spec.model);
    this.#self = { spec, boot_key: bootKeyOf(spec), specText: JSON.stringify(spec), facts };
    return this.#self;
  }

  #require(): Self {
    const self = this.#load();
    if (self === null) throw new Error("this deployment was never used");
    return self;
  }

  spec(): RunSpec {
    return this.#require().spec;
  }

  /** That of the current release. */
  bootKey(): string {
    return this.#require().boot_key;
  }

  facts(): Readonly<DeploymentFacts> {
    return this.#require().facts;
  }

  saveFacts(change: Partial<DeploymentFacts>): void {
    const self = this.#require();
    self.facts = { ...self.facts, ...change };
    this.sql.exec("UPDATE deployment SET facts = ?", JSON.stringify(self.facts));
  }
}
