/** Objects that grow with what is told them, filled to their bounds: each row stays below the platform's, and each turn writes and reads a bounded part. */
import { describe, expect, it, vi } from "vitest";
import { BATCH_LINE_BYTES_MAX } from "../schema/batches.ts";
import type { AccountTerms, Charge } from "../schema/ledger.ts";
import { amountMicros } from "../schema/pricing.ts";
import { AccountObject } from "./account.ts";
import { BatchObject } from "./batch.ts";
import type { BatchInput } from "./batch-contract.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import {
  aDocument,
  anAdmit,
  aPredictionId,
  aSettlement,
  aSpec,
  envWith,
  freshName,
  passTime,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";
import { largestRow, ROW_BYTES_MAX } from "./testing/rows.ts";

stopClockInEachTest();

const DAY_MS = 86_400_000;

describe("the ledger of an account", () => {
  const MONTHS = 14;
  const ENDS_A_MONTH = 100;
  const TERMS: AccountTerms = {
    billing: "postpaid",
    budget: { day_micros: null, month_micros: null },
    alert_webhook: null,
    free_credits_micros: 0,
  };

  function aCharge(id: string): Charge {
    const price = { unit: "second" as const, price_micros: 100, per: 1_000_000, discount_ppm: 0 };
    const line = { ...price, quantity: 1_000_000, amount_micros: amountMicros(1_000_000, price, 0) };
    const of = { model: "m".repeat(129), version: "v".repeat(64), hardware: "cpu", token_id: "t", deployment: null };
    return { subject: `prediction:${id}`, at: Date.now(), basis: "active", ...of, lines: [line] };
  }

  it("of more than a year is read in pages, its sums are exact, and ends of later months read and write no more rows than the first", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const touched = touchedRows(state);
      const account = new AccountObject(state as never, envWith({}));
      const ofMonths: number[] = [];
      for (let month = 0; month < MONTHS; month += 1) {
        const spend = { reserve_micros: 1_000, terms: TERMS, token: null, model: "a/b", deployment: null };
        const before = touched();
        const admits = Array.from({ length: ENDS_A_MONTH }, () =>
          anAdmit({ created_at: Date.now(), spend, limits: { creates_per_minute: 100_000 } }),
        );
        const answers = await Promise.all(admits.map((admit) => account.admit(admit)));
        expect(new Set(answers.map(({ kind }) => kind))).toEqual(new Set(["admitted"]));
        await account.settle(
          admits.map(({ prediction_id, created_at }) => {
            const document = aDocument({ id: prediction_id, created_at });
            return aSettlement(document, { charge: aCharge(prediction_id) });
          }),
        );
        ofMonths.push(touched() - before);
        passTime(31 * DAY_MS);
      }
      expect(Math.max(...ofMonths)).toBe(ofMonths[0]);
      expect(largestRow(state).bytes).toBeLessThan(ROW_BYTES_MAX / 100);

      const whole = { after_seq: 0, limit: 1_000_000 };
      const first = await account.ledger(whole);
      expect([first.entries.length, first.more]).toEqual([1_000, true]);
      const rest = await account.ledger({ ...whole, after_seq: first.entries.at(-1)?.seq ?? 0 });
      expect([rest.entries.length, rest.more]).toEqual([MONTHS * ENDS_A_MONTH - 1_000, false]);
      const usage = await account.usage({ from: 0, to: Date.now(), group_by: [] });
      expect(usage).toMatchObject([{ predictions: MONTHS * ENDS_A_MONTH, amount_micros: MONTHS * ENDS_A_MONTH * 100 }]);
      expect((await account.balance(TERMS)).balance_micros).toBe(-MONTHS * ENDS_A_MONTH * 100);
    }));
});

describe("a batch", () => {
  it("keeps rows small with inputs, secrets and results as large as they may be", () =>
    withObject("BATCHES", freshName(), async (state) => {
      const created: CreatePrediction[] = [];
      const create = async (request: CreatePrediction) => {
        created.push(request);
        return { document: aDocument({ id: request.id, state: "queued" }), settled: false };
      };
      const batch = new BatchObject(state as never, envWith({ predictions: { create } }));
      const id = aPredictionId();
      const retention_ms = DAY_MS;
      const of = { account_id: "alice", spec: aSpec(), shown_version: "a".repeat(64), created_at: Date.now() };
      await batch.create({ id, ...of, stream_kind: "text", source: "api", max_concurrency: 4, retention_ms });
      const text = "語".repeat(BATCH_LINE_BYTES_MAX / 3);
      const inputs = Array.from({ length: 4 }, (_, index): BatchInput => {
        const shown_input = index % 2 === 0 ? null : { text, key: "[REDACTED]" };
        const log_lines = ["語".repeat(1_000)];
        return { index, custom_id: "c".repeat(64), input: { text, key: "s" }, shown_input, log_lines };
      });
      await batch.append(inputs);
      await batch.seal();
      await vi.waitFor(() => expect(created).toHaveLength(4));
      expect(created.map(({ input }) => input)).toEqual(inputs.map(({ input }) => input));
      expect(largestRow(state).bytes).toBeLessThan(ROW_BYTES_MAX);
      const output = "語".repeat(3_000_000);
      for (const { id: prediction_id, batch: of_ } of created) {
        const document = aDocument({ id: prediction_id, output });
        await batch.settled([{ index: of_?.index ?? 0, prediction_id, document }]);
      }
      expect(largestRow(state).bytes).toBeLessThan(ROW_BYTES_MAX);
    }));
});

/** Counts the rows that an object's SQL touches from now on: what it reads and writes, in all. */
function touchedRows({ storage }: DurableObjectState): () => number {
  const cursors: SqlStorageCursor<Record<string, SqlStorageValue>>[] = [];
  const exec = storage.sql.exec.bind(storage.sql);
  vi.spyOn(storage.sql, "exec").mockImplementation(((query: string, ...values: SqlStorageValue[]) => {
    const cursor = exec(query, ...values);
    cursors.push(cursor);
    return cursor;
  }) as never);
  return () => cursors.reduce((sum, { rowsRead, rowsWritten }) => sum + rowsRead + rowsWritten, 0);
}
