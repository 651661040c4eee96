/** An object's SQLite in memory, on Node's: statements are prepared once, as workerd does. */
import { DatabaseSync, type StatementSync } from "node:sqlite";

export function memorySql(): SqlStorage {
  const database = new DatabaseSync(":memory:");
  const statements = new Map<string, StatementSync>();
  const exec = <T>(query: string, ...bindings: SqlStorageValue[]) => {
    if (bindings.length === 0 && query.includes(";")) {
      database.exec(query);
      return cursor<T>([], 0);
    }
    const statement = statements.get(query) ?? database.prepare(query);
    statements.set(query, statement);
    const values = bindings as (string | number | null)[];
    if (/^\s*select/i.test(query)) return cursor(statement.all(...values) as T[], 0);
    return cursor<T>([], Number(statement.run(...values).changes));
  };
  return { exec } as SqlStorage;
}

function cursor<T>(rows: T[], rowsWritten: number): { toArray: () => T[]; one: () => T; rowsWritten: number } {
  const one = (): T => {
    const [row] = rows;
    if (row === undefined || rows.length > 1) throw new Error(`one row was expected, not ${rows.length}`);
    return row;
  };
  return { toArray: () => rows, one, rowsWritten };
}
