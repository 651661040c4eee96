/**
 * Bugs that are planted one at a time, each of which the seeds must find: faults of the kind that such a system has, made by replacing a piece of the product's
 * source as it is loaded. A piece that is not there exactly once fails the test: then the bug is to be planted anew where its code went.
 */
import type { Patch } from "./loader.ts";

export interface PlantedBug {
  name: string;
  patches: Patch[];
}

const bug = (name: string, ...patches: [file: string, find: string, replace: string][]): PlantedBug => ({
  name,
  patches: patches.map(([file, find, replace]) => ({ file, find, replace })),
});

export const BUGS: PlantedBug[] = [
  // ---- events and attempts
  bug("an event that comes again is applied again", [
    "schema/attempt-events.ts",
    "if (event.i <= progress.last_i) continue;",
    "",
  ]),
  bug("events of an older attempt are taken: no fence", [
    "schema/attempt-events.ts",
    "if (batch.attempt !== before.life.attempt) return { ...fenced, stored: [], effects: [] };",
    "",
  ]),
  bug("what comes after the end is added", [
    "schema/attempt-events.ts",
    "if (isTerminal(before.life.state)) {",
    "if (isTerminal(before.life.state) && through_i <= before.last_i) {",
  ]),
  bug("another attempt's outputs are added to those of the first", [
    "schema/attempt-events.ts",
    "repeated: progress.output_count > 0 ? 0 : null,",
    "repeated: null,",
  ]),
  bug("a cancel overwrites an end", [
    "schema/prediction-lifecycle.ts",
    "  succeeded: {},",
    '  succeeded: { cancel: ["canceling"] },',
  ]),
  bug("a deadline that passed is forgotten", [
    "durable-objects/prediction-deadlines.ts",
    'await step(id, { type: "deadline" });',
    "",
  ]),
  bug("a cancel that its origin does not answer is not forced", [
    "durable-objects/prediction-attempts.ts",
    'return this.#host.step(id, life.attempt, { type: "forced" });',
    "return;",
  ]),
  bug("silence of an origin that is gone is never asked about", [
    "durable-objects/prediction-attempts.ts",
    "    await this.#ask(id, known, originId);\n",
    "",
  ]),
  bug("what is not idempotent is run again after it started", [
    "schema/prediction-lifecycle.ts",
    "(!started || (life.idempotent && lost_runs < LOST_RUNS_MAX));",
    "lost_runs < LOST_RUNS_MAX;",
  ]),

  // ---- alarms
  bug("a new deadline does not set the alarm", [
    "durable-objects/alarms.ts",
    'this.#storage.sql.exec("INSERT OR REPLACE INTO deadlines VALUES (?, ?)", name, due);\n    this.#arm();',
    'this.#storage.sql.exec("INSERT OR REPLACE INTO deadlines VALUES (?, ?)", name, due);',
  ]),
  bug("a deadline is forgotten before its handler returned", [
    "durable-objects/alarms.ts",
    "      this.#handling.set(name, dueAt);\n",
    "      this.clear(name);\n",
  ]),

  // ---- outbox
  bug("an end owes no release", [
    "durable-objects/prediction-outbox.ts",
    '    case "release":\n      return [{',
    '    case "release":\n      return [];\n      [{',
  ]),
  bug("a row of the outbox goes before it was taken", [
    "durable-objects/prediction-outbox.ts",
    "        await this.#call(owner, batch);\n        this.#sent.push(...batch.map((row) => row.n));",
    "        this.#sent.push(...batch.map((row) => row.n));\n        await this.#call(owner, batch);",
  ]),
  bug("a row of the outbox that was not taken is never sent again", [
    "durable-objects/prediction.ts",
    'if (outbox.length > 0) this.#alarms.setNoLaterThan("outbox", now + OUTBOX_RETRY_MS);',
    "",
  ]),
  bug("a slot is released before the end is durable", [
    "durable-objects/prediction.ts",
    "    let ack: AttemptAck = {",
    `    if (sent.events.some(({ type }) => type === "finished")) {
      const { deployment_key } = known.request.spec;
      await deploymentStub(this.env, deployment_key).release([{ prediction_id, attempt, ran_ms: 1 }]).catch(() => undefined);
    }
    let ack: AttemptAck = {`,
  ]),

  // ---- webhooks
  bug("a webhook leaves before its commit", [
    "durable-objects/prediction.ts",
    "    let ack: AttemptAck = {",
    `    if (known.request.webhook !== null && sent.events.some(({ type }) => type === "finished")) {
      const headers = { "cogway-event": "completed", "webhook-id": "early" };
      await fetch(known.request.webhook, { method: "POST", headers, body: JSON.stringify({ id: prediction_id }) }).catch(() => undefined);
    }
    let ack: AttemptAck = {`,
  ]),
  bug("completed is tried once", [
    "durable-objects/prediction-webhooks.ts",
    'const isRetried = event === "completed" && record.state === "pending" && error !== null;',
    "const isRetried = false;",
  ]),
  bug("each try of a webhook has an id of its own", [
    "durable-objects/prediction-webhooks.ts",
    "function webhookId({ prediction_id, n }: WebhookRow): string {\n",
    "function webhookId({ prediction_id, n }: WebhookRow): string {\n  return prediction_id + n + Date.now();\n",
  ]),
  bug("events of a prediction are sent the newest first", [
    "durable-objects/webhook-store.ts",
    '"prediction_id = ? AND due_at < ? ORDER BY n", id, NEVER',
    '"prediction_id = ? AND due_at < ? ORDER BY n DESC", id, NEVER',
  ]),
  bug("two events of a prediction are sent at the same time", [
    "durable-objects/prediction-webhooks.ts",
    "    if (this.#sending.has(id)) return;\n",
    "",
  ]),
  bug("events that nobody wants are sent", [
    "schema/webhooks.ts",
    "return filter === null || filter.includes(event);",
    "return true;",
  ]),

  // ---- the account
  bug("an Idempotency-Key is not claimed", [
    "durable-objects/account.ts",
    "this.#store.claimKey(key, body_sha256, request.prediction_id, now, now - IDEMPOTENCY_TTL_MS);",
    "void [key, body_sha256];",
  ]),
  bug("an admission without a prediction stays in the list", [
    "durable-objects/account-store.ts",
    '? " AND confirmed = 0" : ""',
    '? " AND confirmed = 7" : ""',
  ]),
  bug("a create that broke off gives its key and its hold back", [
    "workers/domain/start-prediction.ts",
    "if (!mayExist) {",
    "if (!mayExist || isSent) {",
  ]),
  bug(
    "a settlement that comes again is booked again",
    [
      "durable-objects/account.ts",
      "if (!this.#store.settle(settlement, now)) continue;",
      "this.#store.settle(settlement, now);",
    ],
    ["durable-objects/account-ledger.ts", "  UNIQUE (subject, kind)\n", "  CHECK (kind <> '')\n"],
  ),
  bug("a reservation is not freed by the end", [
    "durable-objects/account-money.ts",
    "    release(this.#ledger, prediction_id);\n",
    "",
  ]),
  bug("what is held for others does not count against a cap", [
    "schema/budgets.ts",
    "const reserved = books.reserved(scope);",
    "const reserved = 0;",
  ]),
  bug("a budget is checked outside of the transaction that reserves", [
    "schema/budgets.ts",
    "if (refusal === null) setReserved(books, id, { micros, token });",
    "if (refusal === null) setTimeout(() => setReserved(books, id, { micros, token }), 5);",
  ]),
  bug("failures of the platform are paid for", [
    "schema/pricing.ts",
    "if (meter.platform_failure || rates.basis",
    "if (rates.basis",
  ]),
  bug("a cost above its limit is booked in full", [
    "schema/prediction-cost.ts",
    "return limit === null ? lines : cappedLines(lines, limit.micros);",
    "return limit === null || cappedLines.length === 0 ? lines : lines;",
  ]),

  // ---- the deployment
  bug("a slot is given to one more", [
    "durable-objects/deployment-leases.ts",
    "row.own < row.slots - row.lent",
    "row.own <= row.slots - row.lent",
  ]),
  bug("a lease that is given at once is not stored", [
    "durable-objects/deployment-leases.ts",
    "this.#is.queue.insertLease(lease, request.account_id, { queue_ms: 0, is_cold: 0 });",
    "",
  ]),
  bug("the last to come is the first to be served", [
    "durable-objects/deployment-queue.ts",
    "ORDER BY priority, turn, arrival LIMIT 1`",
    "ORDER BY priority, turn DESC, arrival DESC LIMIT 1`",
  ]),
];
