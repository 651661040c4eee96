/** API tokens on the wire. Beyond Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { parseModelReference } from "../ids.ts";
import { SCOPES } from "../tokens.ts";
import { DisplayNameSchema } from "./account.ts";
import { BudgetSchema, NewBudgetSchema } from "./billing.ts";
import { CursorQuerySchema, pageOf } from "./common.ts";

/** Each request of a token searches them. */
const ALLOWED_MODELS_MAX = 100;
/** Ten years. */
const EXPIRES_IN_MAX_S = 315_360_000;

const scopes = z.array(z.enum(SCOPES));
const allowedModels = z.array(
  z.string().refine((text) => parseModelReference(text)?.kind === "model", "must be owner/name"),
);

export const CreateTokenSchema = z
  .strictObject({
    name: DisplayNameSchema,
    scopes: scopes.min(1).max(SCOPES.length).describe("of those that your token has"),
    expires_at: z.iso.datetime({ offset: true }).optional(),
    expires_in: z.number().int().min(1).max(EXPIRES_IN_MAX_S).optional().describe("seconds, instead of `expires_at`"),
    allowed_models: allowedModels
      .min(1)
      .max(ALLOWED_MODELS_MAX)
      .optional()
      .describe("owner/name of the only models that the token may see and run"),
    account: z
      .string()
      .optional()
      .describe("username of an organization that you own or administer; your own account when absent"),
    budget: NewBudgetSchema.optional().describe("caps on what is spent with it, beside those of its account"),
  })
  .refine((body) => body.expires_at === undefined || body.expires_in === undefined, {
    path: ["expires_in"],
    message: "cannot be given beside expires_at",
  })
  .openapi("TokenRequest");

export const TokenSchema = z
  .object({
    id: z.string(),
    account: z.string().describe("username of the account that it acts for"),
    name: z.string(),
    last_four: z.string().describe("the token's last characters"),
    scopes,
    allowed_models: allowedModels.nullable().describe("null: every model that the account may see"),
    created_at: z.string(),
    created_by: z.string().nullable().describe("username of who made it; null for an account's first token"),
    expires_at: z.string().nullable(),
    last_used_at: z.string().nullable().describe("within a minute of the truth"),
    revoked: z.boolean(),
    budget: BudgetSchema.nullable().describe("caps of its own; null is none"),
  })
  .openapi("Token");
export const UpdateTokenSchema = z
  .strictObject({
    name: DisplayNameSchema.optional(),
    budget: NewBudgetSchema.nullable().optional().describe("both caps anew; null takes them away"),
  })
  .openapi("TokenChange");
export const CreatedTokenSchema = TokenSchema.extend({ token: z.string().describe("shown this once") }).openapi(
  "CreatedToken",
);
export const TokenPageSchema = pageOf(TokenSchema, "TokenPage");

export const TokenParams = z.object({ token_id: z.string() });
export const ListTokensQuery = CursorQuerySchema.extend({
  account: z.string().optional().describe("username of an organization that you own or administer"),
});
