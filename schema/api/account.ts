/** Accounts on the wire: the caller's own (Replicate's HTTP API) and the operator's route that makes them. */
import { z } from "@hono/zod-openapi";
import { NAME_PATTERN } from "../ids.ts";

export const AccountSchema = z
  .object({
    type: z.enum(["user", "organization"]),
    username: z.string(),
    name: z.string(),
    github_url: z.string().nullable(),
    avatar_url: z.string().nullable(),
  })
  .openapi("Account");

/** Creates a minute that an account may be given: a bench needs tens of thousands, nobody needs more. */
const CREATES_PER_MINUTE_MAX = 10_000_000;

/** First parts of addresses that are not accounts: nobody may be called so. */
export const RESERVED_USERNAMES = new Set(
  "admin assets docs docs-assets gateway healthz mcp metrics oauth openai openapi.json origin outputs p rtc v1 v2".split(
    " ",
  ),
);

export const CreateAccountSchema = z
  .strictObject({
    type: z.enum(["user", "organization"]),
    username: z
      .string()
      .regex(NAME_PATTERN, "must be 1 to 64 of a-z, 0-9, '-', '_', '.', with a letter or digit at both ends")
      .refine((username) => !RESERVED_USERNAMES.has(username), "is reserved"),
    name: z.string().min(1).max(255),
    limits: z
      .strictObject({ creates_per_minute: z.number().int().min(1).max(CREATES_PER_MINUTE_MAX).optional() })
      .optional(),
  })
  .openapi("AccountRequest");

export const CreatedAccountSchema = z
  .object({
    account: z.object({
      id: z.string(),
      type: z.enum(["user", "organization"]),
      username: z.string(),
      name: z.string(),
      limits: z.object({ creates_per_minute: z.number().int() }),
      created_at: z.string(),
    }),
    token: z.string().describe("shown this once"),
  })
  .openapi("CreatedAccount");
