/** Owns the audit log of one account. */
import { DurableObject } from "cloudflare:workers";

export class AuditObject extends DurableObject<Env> {}
