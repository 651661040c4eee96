/** Who changed what: the audit log of an account, for those who manage it, and of any account for the operator. Beyond Replicate's HTTP API. */
import { createRoute } from "@hono/zod-openapi";
import type { Context } from "hono";
import { z } from "zod";
import type { AuditEntry } from "../../durable-objects/audit-contract.ts";
import { auditStub } from "../../durable-objects/stubs.ts";
import { AuditCheckSchema, AuditPageSchema, AuditQuery } from "../../schema/api/audit.ts";
import { bearer, problems } from "../../schema/api/common.ts";
import { AppError } from "../../schema/problems.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { findAccountId } from "../storage/accounts.ts";
import { findManaged } from "../storage/tokens.ts";
import { allow, json, newRouter } from "./router.ts";

export const auditLog = newRouter();
const PAGE_ROWS = 100;
const AuditCursor = z.object({ before_seq: z.number().int() });

for (const { path, scope, tags, find } of [
  { path: "/v1/audit", scope: "account:read", tags: ["account"], find: managed },
  { path: "/admin/v1/audit", scope: "admin", tags: ["operating"], find: any },
] as const) {
  const whose = path === "/v1/audit" ? "an account that you manage" : "any account";
  auditLog.openapi(
    createRoute({
      method: "get",
      path,
      tags: [...tags],
      summary: `List who changed what in ${whose}, newest first`,
      description:
        "Every change of settings, rights, models, deployments and tokens leaves one entry; running models leaves none.",
      security: bearer,
      middleware: allow(scope),
      request: { query: AuditQuery },
      responses: { 200: { description: "A page of entries", content: json(AuditPageSchema) }, ...problems(404) },
    }),
    async (c) => {
      const query = c.req.valid("query");
      const cursor = decodeCursor(query.cursor, AuditCursor);
      const page = { before_seq: cursor?.before_seq ?? null, limit: PAGE_ROWS };
      const { entries, more } = await auditStub(c.env, await find(c, query.account)).list(page);
      const last = entries.at(-1);
      const next = more && last !== undefined ? { before_seq: last.seq } : null;
      return c.json(
        {
          previous: null,
          next: pageUrl(edgeOf(c).settings.publicUrl, path, c.req.query(), next),
          results: entries.map(show),
        },
        200,
      );
    },
  );

  auditLog.openapi(
    createRoute({
      method: "get",
      path: `${path}/verify` as const,
      tags: [...tags],
      summary: `Check the chain of the audit log of ${whose}`,
      description: "Computes every hash anew: an entry that was changed, left out, put in or cut off shows.",
      security: bearer,
      middleware: allow(scope),
      request: { query: AuditQuery.pick({ account: true }) },
      responses: { 200: { description: "What was found", content: json(AuditCheckSchema) }, ...problems(404) },
    }),
    async (c) => c.json(await auditStub(c.env, await find(c, c.req.valid("query").account)).verify(), 200),
  );
}

async function managed(c: Context<AppEnv>, username: string | undefined): Promise<string> {
  const caller = callerOf(c);
  if (username === undefined || username === caller.username) return caller.account_id;
  const account = await findManaged(c.env.DB, caller.account_id, username);
  if (account === null) throw unknownAccount(username);
  return account.id;
}

async function any(c: Context<AppEnv>, username: string | undefined): Promise<string> {
  if (username === undefined) return callerOf(c).account_id;
  const id = await findAccountId(c.env.DB, username);
  if (id === null) throw unknownAccount(username);
  return id;
}

function unknownAccount(username: string): AppError {
  return new AppError("account.not_found", `There is no account ${username.slice(0, 64)} that you manage.`);
}

function show(entry: AuditEntry) {
  return { ...entry, at: new Date(entry.at).toISOString() };
}
