/** The operator's routes on the wire: origins, models, tokens and whole accounts. */
import { z } from "@hono/zod-openapi";
import { TOKEN_ID_LENGTH } from "../tokens.ts";
import { CURSOR_CHARACTERS_MAX, pageOf } from "./common.ts";

export const OriginSchema = z
  .object({
    id: z.string(),
    url: z.string(),
    region: z.string(),
    driver: z.string(),
    state: z
      .enum(["ready", "draining", "drained", "lost"])
      .describe("draining: it still runs something; drained: it runs nothing; lost: silent for 20 s"),
    hardware: z.array(z.object({ sku: z.string(), name: z.string(), gpus: z.number().int() })),
    capacity: z.object({ instances: z.number().int(), memory_bytes: z.number().int() }),
    instances: z.number().int(),
  })
  .openapi("Origin");
export const OriginPageSchema = pageOf(OriginSchema, "OriginPage");
export const OriginsQuery = z.object({ cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional() });
export const OriginParams = z.object({ origin_id: z.string().max(64) });
export const InvitedOriginSchema = z
  .object({ join_token: z.string().describe("shown this once, and used once"), expires_at: z.string() })
  .openapi("InvitedOrigin");

export const PauseModelSchema = z
  .strictObject({
    reason: z
      .string()
      .min(1)
      .max(500)
      .regex(/^[^\p{Cc}\p{Cs}]*$/u, "must be one line")
      .describe("shown to everybody who wants to run it"),
  })
  .openapi("PauseRequest");
export const PausedModelSchema = z
  .object({ model: z.string(), paused_reason: z.string().nullable() })
  .openapi("PausedModel");

export const TokenIdParams = z.object({
  token_id: z.string().regex(new RegExp(`^[0-9a-f]{${TOKEN_ID_LENGTH}}$`), "must be a token's id"),
});
export const UsernameParams = z.object({ username: z.string().max(64) });

export const UpdateAccountSchema = z
  .strictObject({
    zero_retention: z
      .boolean()
      .describe("nothing of its predictions is kept beyond their delivery, whatever they ask for"),
  })
  .openapi("AccountUpdate");
export const ManagedAccountSchema = z
  .object({
    id: z.string(),
    type: z.enum(["user", "organization"]),
    username: z.string(),
    zero_retention: z.boolean(),
    deleted_at: z.string().nullable(),
    created_at: z.string(),
  })
  .openapi("ManagedAccount");

export const EraseQuery = z.object({ cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional() });
export const ErasureSchema = z
  .object({
    state: z.enum(["erasing", "erased"]).describe("erasing: ask again with `cursor` until it is erased"),
    cursor: z.string().nullable(),
    step: z
      .string()
      .describe("what is being removed: predictions, trainings, batches, files, deployments, models or account"),
    removed: z.number().int().describe("things that this call removed"),
    waiting_for: z.string().nullable().describe("what cannot go yet, such as an instance that still ends"),
  })
  .openapi("Erasure");
