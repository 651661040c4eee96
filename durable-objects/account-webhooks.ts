/**
 * The webhook keys of one account. Only a random generation is stored: the key is derived from it with the edge's signing secret, so no store holds one.
 * The table is made by the first key, in folders of earlier releases too.
 */
import { randomBytes } from "node:crypto";
import { signedHeaders, WEBHOOK_KEY_OVERLAP_MS, type WebhookEvent, webhookKey } from "../schema/webhooks.ts";
import type { WebhookTestResult } from "./account-contract.ts";
import { callWebhook } from "./webhook-call.ts";

const TABLE = `
CREATE TABLE IF NOT EXISTS webhook_keys (
  n INTEGER PRIMARY KEY,
  generation TEXT NOT NULL,
  valid_until INTEGER
);
`;
/** Keys that are valid at once: whoever rotates more often within a day drops the oldest. */
const KEYS_MAX = 8;
const GENERATION_BYTES = 16;
/** Test calls of an account in this time. Forgotten with the object's memory: they are few and bounded in length. */
const TESTS_MAX = 10;
const TESTS_WINDOW_MS = 60_000;

export class AccountWebhooks {
  readonly #sql: SqlStorage;
  #tests: number[] = [];

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** Inside a commit: the valid keys, the newest first; makes the first one. */
  keys(signingSecret: string, accountId: string, now: number): string[] {
    this.#sql.exec(TABLE);
    const read = (): string[] =>
      this.#sql
        .exec<{ generation: string }>(
          "SELECT generation FROM webhook_keys WHERE valid_until IS NULL OR valid_until > ? ORDER BY n DESC LIMIT ?",
          now,
          KEYS_MAX,
        )
        .toArray()
        .map(({ generation }) => webhookKey(signingSecret, accountId, generation));
    const found = read();
    if (found.length > 0) return found;
    this.#add();
    return read();
  }

  /** Inside a commit: a new key. Answers until when those before it sign as well. */
  rotate(signingSecret: string, accountId: string, now: number): { key: string; previous_valid_until: number } {
    // An account that never asked for its key has one all the same: receivers may hold it.
    this.keys(signingSecret, accountId, now);
    const previous_valid_until = now + WEBHOOK_KEY_OVERLAP_MS;
    this.#sql.exec("UPDATE webhook_keys SET valid_until = ? WHERE valid_until IS NULL", previous_valid_until);
    this.#sql.exec("DELETE FROM webhook_keys WHERE valid_until <= ?", now);
    this.#add();
    return { key: this.keys(signingSecret, accountId, now)[0] ?? "", previous_valid_until };
  }

  #add(): void {
    const generation = Buffer.from(randomBytes(GENERATION_BYTES)).toString("hex");
    this.#sql.exec("INSERT INTO webhook_keys (generation, valid_until) VALUES (?, NULL)", generation);
  }

  async test(
    keys: readonly string[],
    { url, event, body }: { url: string; event: WebhookEvent; body: string },
  ): Promise<WebhookTestResult> {
    const now = Date.now();
    this.#tests = this.#tests.filter((at) => at > now - TESTS_WINDOW_MS);
    const [oldest] = this.#tests;
    if (oldest !== undefined && this.#tests.length >= TESTS_MAX) {
      return { kind: "limited", retry_after_ms: oldest + TESTS_WINDOW_MS - now };
    }
    this.#tests.push(now);
    const id = `msg_test_${Buffer.from(randomBytes(GENERATION_BYTES)).toString("hex")}`;
    const { status, duration_ms, error } = await callWebhook(url, signedHeaders(keys, { id, event, body }, now), body);
    return { kind: "called", id, status, duration_ms, error };
  }
}
