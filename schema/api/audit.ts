/** The audit log on the wire. */
import { z } from "@hono/zod-openapi";
import { CursorQuerySchema, pageOf } from "./common.ts";

const AuditEntrySchema = z
  .object({
    seq: z.number().int().describe("rises by one, without a gap"),
    at: z.string(),
    actor: z.string().describe("id of the account whose token did it"),
    token_id: z.string().nullable(),
    action: z.string().describe("such as `token.created` or `model.changed`"),
    target: z.string().describe("what it was done to"),
    details: z.record(z.string(), z.unknown()).describe("what changed, without secrets and inputs"),
    ip: z.string().nullable().describe("address of the caller, where the platform tells it"),
    request_id: z.string().nullable(),
    hash: z.string().describe("hex SHA-256 over the hash of the entry before this one, and this one"),
  })
  .openapi("AuditEntry");
export const AuditPageSchema = pageOf(AuditEntrySchema, "AuditPage");

export const AuditQuery = CursorQuerySchema.extend({
  account: z.string().max(64).optional().describe("an organization that you own or administer; your own when absent"),
});

export const AuditCheckSchema = z
  .object({
    entries: z.number().int().describe("how many fit, from the first on"),
    broken_at: z.number().int().nullable().describe("the first entry that does not fit; null when all do"),
    head: z.string().describe("hash of the last one that fits: keep it elsewhere, and compare it later"),
  })
  .openapi("AuditCheck");
