import { describe, expect, it } from "vitest";
import { GroupCommit } from "./group-commit.ts";
import { freshName, withObject } from "./testing/harness.ts";

function withTable(test: (sql: SqlStorage, writes: GroupCommit, undone: () => number) => Promise<void>): Promise<void> {
  return withObject("FLEETS", freshName(), async ({ storage }) => {
    let undone = 0;
    const writes = new GroupCommit(storage, () => {
      undone += 1;
    });
    storage.sql.exec("CREATE TABLE t (n INTEGER PRIMARY KEY)");
    await test(storage.sql, writes, () => undone);
  });
}

describe("group commit", () => {
  it("guarantees that calls which arrive together run in their order, each seeing those before it", () =>
    withTable(async (sql, writes) => {
      const add = (n: number) =>
        writes.run(() => {
          sql.exec("INSERT INTO t VALUES (?)", n);
          return sql.exec<{ c: number }>("SELECT count(*) AS c FROM t").one().c;
        });
      expect(await Promise.all([add(1), add(2), add(3)])).toEqual([1, 2, 3]);
      expect(await add(4)).toBe(4);
    }));

  it("guarantees that one that fails is undone alone, and its caller alone hears of it", () =>
    withTable(async (sql, writes, undone) => {
      const add = (n: number, fails: boolean) =>
        writes.run(() => {
          sql.exec("INSERT INTO t VALUES (?)", n);
          if (fails) throw new Error("broken");
        });
      const results = await Promise.allSettled([add(1, false), add(2, true), add(3, false)]);
      expect(results.map((result) => result.status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
      expect(sql.exec<{ n: number }>("SELECT n FROM t ORDER BY n").toArray()).toEqual([{ n: 1 }, { n: 3 }]);
      expect(undone()).toBe(1);
    }));
});
