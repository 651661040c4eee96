import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { AccountObject } from "./account.ts";
import type { AdmitRequest, Settlement } from "./account-contract.ts";
import {
  aDocument,
  anAdmit,
  aPredictionId,
  aSettlement,
  envWith,
  freshName,
  passTime,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";

const ANSWER = { status: 201, headers: [["x-test", "1"]] as [string, string][], body: '{"id":"x", "odd spacing":1}' };

/** What its prediction tells the account at its end. */
function anEnd({ prediction_id, created_at }: AdmitRequest, change: Partial<PredictionDocument> = {}): Settlement {
  return aSettlement(aDocument({ id: prediction_id, created_at, ...change }));
}

/** Runs `test` with an account whose PredictionObjects know the predictions in `existing`. `restart` drops its memory. */
function withAccount(
  test: (account: AccountObject, tools: { restart: () => AccountObject; existing: Set<string> }) => Promise<void>,
): Promise<void> {
  return withObject("ACCOUNTS", freshName(), async (state) => {
    const existing = new Set<string>();
    const predictions = {
      getMany: async (ids: string[]) => ids.map((id) => (existing.has(id) ? aDocument({ id }) : null)),
    };
    const restart = () => new AccountObject(state as never, envWith({ predictions }));
    await test(restart(), { restart, existing });
  });
}

stopClockInEachTest();

/** The list as the first release kept it: without kinds, in rows and in documents. */
const FIRST_RELEASE = `
CREATE TABLE account (one INTEGER PRIMARY KEY CHECK (one = 1), account_id TEXT NOT NULL, full_at REAL NOT NULL);
CREATE TABLE predictions (prediction_id TEXT PRIMARY KEY, created_at INTEGER NOT NULL, source TEXT NOT NULL, admitted_at INTEGER NOT NULL,
  confirmed INTEGER NOT NULL, document TEXT);
CREATE INDEX predictions_by_time ON predictions (created_at, prediction_id);
CREATE INDEX predictions_unconfirmed ON predictions (admitted_at) WHERE confirmed = 0;
CREATE TABLE idempotency (key TEXT PRIMARY KEY, body_sha256 TEXT NOT NULL, prediction_id TEXT NOT NULL, created_at INTEGER NOT NULL,
  status INTEGER, headers TEXT, body TEXT);
CREATE TABLE meters (prediction_id TEXT PRIMARY KEY, meter TEXT NOT NULL);
`;

it("guarantees that an account of the first release keeps its predictions, and takes new ones", () =>
  withObject("ACCOUNTS", freshName(), async (state) => {
    const { kind: _kind, destination: _destination, ...document } = aDocument({ created_at: 1_000 });
    state.storage.sql.exec(FIRST_RELEASE);
    state.storage.sql.exec(
      "INSERT INTO predictions VALUES (?, ?, 'api', 1000, 1, ?)",
      document.id,
      document.created_at,
      JSON.stringify(document),
    );
    const account = new AccountObject(state as never, envWith({}));
    const query = { kind: "prediction", limit: 10 } as const;
    expect((await account.list(query)).rows).toMatchObject([{ document: { ...document, kind: "prediction" } }]);
    const request = anAdmit();
    expect(await account.admit(request)).toMatchObject({ kind: "admitted" });
    await account.admit(anAdmit({ kind: "training" }));
    const restarted = new AccountObject(state as never, envWith({}));
    expect((await restarted.list(query)).rows.map((row) => row.prediction_id)).toEqual([
      request.prediction_id,
      document.id,
    ]);
    expect((await restarted.list({ ...query, kind: "training" })).rows).toHaveLength(1);
  }));

describe("admit", () => {
  it("guarantees the create limit over a crash, and a true time to retry", () =>
    withAccount(async (account, { restart }) => {
      const limits = { creates_per_minute: 6 };
      for (let i = 0; i < 6; i++) {
        expect(await account.admit(anAdmit({ limits }))).toMatchObject({ kind: "admitted", remaining: 5 - i });
      }
      const refused = await restart().admit(anAdmit({ limits }));
      expect(refused).toEqual({ kind: "limited", retry_after_ms: 10_000, limit: 6 });
      passTime(9_999);
      expect(await restart().admit(anAdmit({ limits }))).toMatchObject({ kind: "limited", retry_after_ms: 1 });
      passTime(1);
      expect(await account.admit(anAdmit({ limits }))).toMatchObject({ kind: "admitted", remaining: 0 });
      expect(await account.admit(anAdmit({ limits, exempt: true }))).toMatchObject({ kind: "admitted" });
    }));

  it("guarantees that calls which arrive together are each decided, and never pass the limit", () =>
    withAccount(async (account) => {
      const limits = { creates_per_minute: 10 };
      const results = await Promise.all(Array.from({ length: 25 }, () => account.admit(anAdmit({ limits }))));
      expect(results.filter((result) => result.kind === "admitted")).toHaveLength(10);
      expect((await account.list({ kind: "prediction", limit: 100 })).rows).toHaveLength(10);
    }));

  it("guarantees that asking an account that never created anything stores nothing", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const account = new AccountObject(state as never, envWith({}));
      expect(await account.list({ kind: "prediction", limit: 10 })).toEqual({ rows: [], more: false });
      expect(await account.meters(10)).toEqual([]);
      await account.unadmit(aPredictionId());
      await account.answered("key", ANSWER);
      const tables = state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'");
      expect(tables.toArray()).toEqual([]);
    }));
});

describe("idempotency keys", () => {
  const idempotency = { key: "k", body_sha256: "1".repeat(64) };

  it("guarantees in flight, then the same answer byte for byte, then freedom after 24 h", () =>
    withAccount(async (account, { restart }) => {
      const first = anAdmit({ idempotency });
      expect(await account.admit(first)).toMatchObject({ kind: "admitted" });
      expect(await account.admit(anAdmit({ idempotency }))).toMatchObject({
        kind: "in_flight",
        prediction_id: first.prediction_id,
      });
      await account.answered("k", ANSWER);
      await account.answered("k", { ...ANSWER, body: "another" });
      const replay = { kind: "replay", prediction_id: first.prediction_id, response: ANSWER };
      expect(await restart().admit(anAdmit({ idempotency }))).toEqual(replay);
      passTime(86_400_000);
      expect(await account.admit(anAdmit({ idempotency }))).toMatchObject({ kind: "admitted" });
    }));

  it("guarantees that the key with another body is refused, before and after the answer", () =>
    withAccount(async (account) => {
      const other = { key: "k", body_sha256: "2".repeat(64) };
      await account.admit(anAdmit({ idempotency }));
      expect(await account.admit(anAdmit({ idempotency: other }))).toEqual({ kind: "key_reused" });
      await account.answered("k", ANSWER);
      expect(await account.admit(anAdmit({ idempotency: other }))).toEqual({ kind: "key_reused" });
    }));

  it("guarantees that two requests that arrive together with one key make one prediction", () =>
    withAccount(async (account) => {
      const results = await Promise.all([1, 2, 3].map(() => account.admit(anAdmit({ idempotency }))));
      expect(results.map((result) => result.kind).sort()).toEqual(["admitted", "in_flight", "in_flight"]);
      expect((await account.list({ kind: "prediction", limit: 9 })).rows).toHaveLength(1);
    }));

  it("guarantees that neither replays nor refusals count against the limit", () =>
    withAccount(async (account) => {
      const limits = { creates_per_minute: 1 };
      await account.admit(anAdmit({ idempotency, limits }));
      await account.answered("k", ANSWER);
      expect(await account.admit(anAdmit({ idempotency, limits }))).toMatchObject({ kind: "replay" });
    }));

  it("guarantees that a create which failed after admission frees its key and leaves the list", () =>
    withAccount(async (account) => {
      const first = anAdmit({ idempotency });
      await account.admit(first);
      await account.unadmit(first.prediction_id);
      expect((await account.list({ kind: "prediction", limit: 9 })).rows).toEqual([]);
      expect(await account.admit(anAdmit({ idempotency }))).toMatchObject({ kind: "admitted" });
    }));

  it("guarantees that what has ended stays in the list, however late its create is withdrawn", () =>
    withAccount(async (account) => {
      const first = anAdmit({ idempotency });
      await account.admit(first);
      await account.settle([anEnd(first)]);
      await account.unadmit(first.prediction_id);
      const { rows } = await account.list({ kind: "prediction", limit: 9 });
      expect(rows.map(({ prediction_id }) => prediction_id)).toEqual([first.prediction_id]);
      expect(await account.admit(anAdmit({ idempotency }))).toMatchObject({
        kind: "in_flight",
        prediction_id: first.prediction_id,
      });
    }));

  it("guarantees that a first request which died is replayed from its prediction", () =>
    withAccount(async (account) => {
      const first = anAdmit({ idempotency });
      await account.admit(first);
      passTime(90_000);
      expect(await account.admit(anAdmit({ idempotency }))).toEqual({
        kind: "replay",
        prediction_id: first.prediction_id,
        response: { status: 201, headers: [], body: "" },
        render: { document: null },
      });
    }));

  it("guarantees that a first request which died is replayed soon after its prediction's end", () =>
    withAccount(async (account) => {
      const first = anAdmit({ idempotency });
      await account.admit(first);
      const end = anEnd(first);
      await account.settle([end]);
      // Until then the first one may be about to answer.
      expect(await account.admit(anAdmit({ idempotency }))).toMatchObject({ kind: "in_flight" });
      passTime(5_000);
      expect(await account.admit(anAdmit({ idempotency }))).toMatchObject({
        kind: "replay",
        render: { document: end.document },
      });
    }));

  it("guarantees that removed data is not replayed, even when the answer was kept after its removal", () =>
    withAccount(async (account) => {
      const first = anAdmit({ idempotency });
      const removed = aDocument({ id: first.prediction_id, data_removed: true, input: {}, output: null });
      const replay = {
        kind: "replay",
        prediction_id: first.prediction_id,
        response: { ...ANSWER, body: "" },
        render: { document: removed },
      };
      await account.admit(first);
      await account.answered("k", ANSWER);
      await account.removeData([removed]);
      expect(await account.admit(anAdmit({ idempotency }))).toEqual(replay);

      const late = anAdmit({ idempotency: { ...idempotency, key: "late" } });
      await account.admit(late);
      await account.removeData([{ ...removed, id: late.prediction_id }]);
      await account.answered("late", ANSWER);
      const again = await account.admit(anAdmit({ idempotency: { ...idempotency, key: "late" } }));
      expect(again).toMatchObject({ kind: "replay", response: { body: "" } });
    }));
});

describe("the list", () => {
  it("guarantees newest first, each once, while others are created between the pages", () =>
    withAccount(async (account) => {
      const before = new Set<string>();
      for (let i = 0; i < 23; i++) {
        // Several in one millisecond: the id decides their order.
        if (i % 3 === 0) passTime(1);
        const request = anAdmit();
        before.add(request.prediction_id);
        await account.admit(request);
      }
      const seen: { prediction_id: string; created_at: number }[] = [];
      let cursor: { created_at: number; prediction_id: string } | null = null;
      for (let more = true; more; ) {
        const page: Awaited<ReturnType<AccountObject["list"]>> = await account.list({
          kind: "prediction",
          limit: 5,
          before: cursor,
        });
        seen.push(...page.rows);
        cursor = page.rows.at(-1) ?? null;
        more = page.more;
        passTime(1);
        await account.admit(anAdmit());
      }
      expect(new Set(seen.map((row) => row.prediction_id))).toEqual(before);
      expect(seen).toHaveLength(23);
      const order = seen.map((row) => `${row.created_at} ${row.prediction_id}`);
      expect(order).toEqual([...order].sort().reverse());
    }));

  it("guarantees its filters: from inclusive, until exclusive, web for 14 days", () =>
    withAccount(async (account) => {
      const start = Date.now();
      const old = anAdmit({ source: "web" });
      await account.admit(old);
      passTime(15 * 86_400_000);
      const web = anAdmit({ source: "web" });
      const api = anAdmit();
      await account.admit(web);
      await account.admit(api);
      const ids = async (query: object) =>
        (await account.list({ kind: "prediction", limit: 9, ...query })).rows.map((row) => row.prediction_id).sort();
      expect(await ids({ source: "web" })).toEqual([web.prediction_id]);
      expect(await ids({ created_after: Date.now() })).toEqual([web.prediction_id, api.prediction_id].sort());
      expect(await ids({ created_before: Date.now() })).toEqual([old.prediction_id]);
      expect(await ids({ created_after: start + 1, created_before: Date.now() })).toEqual([]);
    }));
});

describe("settle", () => {
  it("guarantees one meter and the first document for each end, however often it is told", () =>
    withAccount(async (account, { restart }) => {
      const request = anAdmit();
      await account.admit(request);
      const end = anEnd(request);
      await account.settle([end]);
      const document = aDocument({ ...end.document, output: "else" });
      await restart().settle([{ ...end, document, meter: { ...end.meter, predict_time_s: 9 } }]);
      expect(await account.meters(10)).toEqual([{ prediction_id: request.prediction_id, meter: end.meter }]);
      expect((await account.list({ kind: "prediction", limit: 1 })).rows[0]?.document).toEqual(end.document);
    }));

  it("guarantees that removed data does not come back with a settlement that is told again", () =>
    withAccount(async (account) => {
      const request = anAdmit();
      const end = anEnd(request);
      const removed = aDocument({ ...end.document, data_removed: true, input: {}, output: null });
      await account.admit(request);
      await account.removeData([removed]);
      await account.settle([end]);
      expect((await account.list({ kind: "prediction", limit: 1 })).rows[0]?.document).toEqual(removed);
      expect(await account.meters(1)).toHaveLength(1);
    }));

  it("guarantees that documents above 16 KiB stay with their objects", () =>
    withAccount(async (account) => {
      const request = anAdmit();
      await account.admit(request);
      const end = anEnd(request, { output: "x".repeat(20_000) });
      await account.settle([end]);
      expect((await account.list({ kind: "prediction", limit: 1 })).rows[0]).toMatchObject({
        prediction_id: request.prediction_id,
        document: null,
      });
    }));
});

describe("admissions without a prediction", () => {
  it("guarantees that they are unlisted after 30 s and their keys are free, and that others stay", () =>
    withAccount(async (account, { restart, existing }) => {
      const lost = anAdmit({ idempotency: { key: "lost", body_sha256: "1" } });
      const alive = anAdmit();
      existing.add(alive.prediction_id);
      await account.admit(lost);
      await account.admit(alive);
      passTime(29_999);
      const young = anAdmit();
      await account.admit(young);
      passTime(1);
      await restart().alarm();
      const rows = async () =>
        (await account.list({ kind: "prediction", limit: 9 })).rows.map((row) => row.prediction_id).sort();
      expect(await rows()).toEqual([alive.prediction_id, young.prediction_id].sort());
      expect(await account.admit(anAdmit({ idempotency: { key: "lost", body_sha256: "2" } }))).toMatchObject({
        kind: "admitted",
      });
      existing.delete(alive.prediction_id);
      passTime(30_000);
      await restart().alarm();
      expect(await rows()).toContain(alive.prediction_id);
      expect(await rows()).not.toContain(young.prediction_id);
    }));

  it("guarantees that their large inputs go too, though the first try breaks, and those of others stay", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const [lost, alive] = [anAdmit(), anAdmit()];
      const keyOf = ({ prediction_id }: { prediction_id: string }) => `predictions/${prediction_id}/input`;
      const predictions = {
        getMany: async (ids: string[]) => ids.map((id) => (id === alive.prediction_id ? aDocument({ id }) : null)),
      };
      const away = { list: () => Promise.reject(new Error("away")) } as unknown as R2Bucket;
      const account = (files: R2Bucket) =>
        new AccountObject(state as never, { ...envWith({ predictions }), FILES: files });
      for (const request of [lost, alive]) {
        await account(env.FILES).admit(request);
        await env.FILES.put(keyOf(request), "{}");
      }
      passTime(30_000);
      await account(away).alarm();
      passTime(60_000);
      await account(env.FILES).alarm();
      expect(await env.FILES.head(keyOf(lost))).toBeNull();
      expect(await env.FILES.head(keyOf(alive))).not.toBeNull();
      const { rows } = await account(env.FILES).list({ kind: "prediction", limit: 9 });
      expect(rows.map((row) => row.prediction_id)).toEqual([alive.prediction_id]);
    }));

  it("guarantees that one which was only slow is listed again at its end", () =>
    withAccount(async (account) => {
      const slow = anAdmit();
      await account.admit(slow);
      passTime(30_000);
      await account.alarm();
      expect((await account.list({ kind: "prediction", limit: 9 })).rows).toEqual([]);
      const end = anEnd(slow);
      await account.settle([end]);
      expect((await account.list({ kind: "prediction", limit: 9 })).rows).toMatchObject([
        { prediction_id: slow.prediction_id, document: end.document },
      ]);
    }));

  it("guarantees that nothing is unlisted while the PredictionObject cannot be asked", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const away = { getMany: () => Promise.reject(new Error("away")) };
      const account = new AccountObject(state as never, envWith({ predictions: away }));
      await account.admit(anAdmit());
      passTime(30_000);
      await account.alarm();
      expect((await account.list({ kind: "prediction", limit: 9 })).rows).toHaveLength(1);
    }));
});
