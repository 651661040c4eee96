/** The audit log of one account (or of the operator): what its AuditObject is asked. Entries are chained by their hashes, so a changed or missing one shows. */

export interface AuditEntry {
  seq: number;
  at: number;
  /** account and token (its id) that did it; `origin:<id>` and `platform` are no tokens */
  actor: string;
  token_id: string | null;
  /** such as `token.created`, `model.visibility_changed`, `account.deleted` */
  action: string;
  /** what it was done to, such as `cogway/whisper` or a token's id */
  target: string;
  /** what changed, without secrets and inputs */
  details: Record<string, unknown>;
  ip: string | null;
  request_id: string | null;
  /** hex SHA-256 over the entry before this one and this one */
  hash: string;
}

export interface AuditApi {
  /** Idempotent by `request_id` and action, where both are given. */
  append(entry: Omit<AuditEntry, "seq" | "hash">): Promise<void>;
  list(query: { before_seq: number | null; limit: number }): Promise<{ entries: AuditEntry[]; more: boolean }>;
  /** Recomputes the chain. `broken_at`: the first entry that does not fit; null when all do. */
  verify(): Promise<{ entries: number; broken_at: number | null; head: string }>;
}
