/** Measures the rows of an object's SQLite. */

/** The platform's bound of a value and of a row. */
export const ROW_BYTES_MAX = 2_000_000;

interface Row {
  table: string;
  bytes: number;
}

/** The largest row of all tables of an object, by the bytes of its values. */
export function largestRow({ storage }: Pick<DurableObjectState, "storage">): Row {
  const tables = storage.sql.exec<{ name: string; column: string }>(
    `SELECT tables.name AS name, columns.name AS column FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns
     WHERE tables.type = 'table' AND substr(tables.name, 1, 4) <> '_cf_' AND tables.name NOT LIKE 'sqlite%'`,
  );
  let largest: Row = { table: "", bytes: 0 };
  for (const [table, columns] of Map.groupBy(tables.toArray(), ({ name }) => name)) {
    const bytes = columns.map(({ column }) => `coalesce(length(CAST("${column}" AS BLOB)), 0)`).join(" + ");
    const row = storage.sql.exec<{ bytes: number | null }>(`SELECT max(${bytes}) AS bytes FROM "${table}"`).one();
    if ((row.bytes ?? 0) > largest.bytes) largest = { table, bytes: row.bytes ?? 0 };
  }
  return largest;
}
