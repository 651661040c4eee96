/** What the platform would do to an audit log: values of 2 MB, an eviction between any two calls, a log of many entries. */
import { evictAllDurableObjects, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import type { AuditEntry } from "./audit-contract.ts";
import { auditStub } from "./stubs.ts";

/** What a row of SQLite may hold on the platform. */
const ROW_BYTES_MAX = 2_000_000;
/** An isolate has 128 MB; a page of a log may take a small part of it. */
const PAGE_BYTES_MAX = 16_000_000;

function anEntry(n: number, change: Partial<AuditEntry> = {}): Omit<AuditEntry, "seq" | "hash"> {
  return {
    at: n,
    actor: "a",
    token_id: null,
    action: "model.changed",
    target: "a/b",
    details: {},
    ip: null,
    request_id: `r${n}`,
    ...change,
  };
}

it("stays far below a row's bound, however large what is said of a change is", async () => {
  const log = auditStub(env, "large");
  const huge = "語".repeat(3_000_000);
  await log.append(anEntry(1, { details: { huge }, action: huge, target: huge, actor: huge, ip: huge }));
  const bytes = await runInDurableObject(env.AUDITS.getByName("large"), (_object, state) => {
    const [row] = state.storage.sql.exec("SELECT * FROM entries").toArray();
    return new TextEncoder().encode(JSON.stringify(row)).length;
  });
  expect(bytes).toBeLessThan(ROW_BYTES_MAX / 100);
  expect(await log.verify()).toMatchObject({ entries: 1, broken_at: null });
});

it("keeps its chain where a bound falls within a character, or half of one was given", async () => {
  const log = auditStub(env, "halves");
  await log.append(anEntry(1, { target: `${"x".repeat(511)}\u{1f600}` }));
  await log.append(anEntry(2, { target: "\ud83d" }));
  expect(await log.verify()).toMatchObject({ entries: 2, broken_at: null });
});

it("loses nothing and keeps its chain when it is evicted between any two calls", async () => {
  const log = () => auditStub(env, "evicted");
  for (let n = 0; n < 5; n++) {
    await evictAllDurableObjects();
    await log().append(anEntry(n));
    await evictAllDurableObjects();
    // As after an answer that was lost.
    await log().append(anEntry(n));
  }
  await evictAllDurableObjects();
  expect(await log().verify()).toMatchObject({ entries: 5, broken_at: null });
  expect((await log().list({ before_seq: null, limit: 10 })).entries.map(({ seq }) => seq)).toEqual([5, 4, 3, 2, 1]);
});

it("is read and checked a page at a time", async () => {
  const log = auditStub(env, "long");
  const details = { text: "x".repeat(7_000) };
  // 20 MB: a log that is held whole would show.
  await Promise.all(Array.from({ length: 2_500 }, (_, n) => log.append(anEntry(n, { details }))));
  const { entries, more } = await log.list({ before_seq: null, limit: 1_000_000 });
  expect(more).toBe(true);
  expect(JSON.stringify(entries).length).toBeLessThan(PAGE_BYTES_MAX);
  expect(await log.verify()).toMatchObject({ entries: 2_500, broken_at: null });
});
