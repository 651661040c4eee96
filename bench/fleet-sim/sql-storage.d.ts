/** What the production queue uses of an object's SQLite, for the type check outside of workerd. */
type SqlStorageValue = ArrayBuffer | string | number | null;
interface SqlStorage {
  exec<T = Record<string, SqlStorageValue>>(
    query: string,
    ...bindings: SqlStorageValue[]
  ): { toArray: () => T[]; one: () => T; readonly rowsWritten: number };
}
