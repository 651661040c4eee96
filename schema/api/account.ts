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

/** What an account may be given: a bench needs tens of thousands a minute, nobody needs more. */
const REQUESTS_PER_MINUTE_MAX = 10_000_000;
const requestsPerMinute = z.number().int().min(1).max(REQUESTS_PER_MINUTE_MAX);

/** First parts of addresses that are not accounts: nobody may be called so. */
export const RESERVED_USERNAMES = new Set(
  "admin assets billing docs docs-assets gateway healthz mcp metrics oauth openai openapi.json origin outputs p rtc status v1 v2".split(
    " ",
  ),
);

/** The name of a new account. */
export const UsernameSchema = z
  .string()
  .regex(NAME_PATTERN, "must be 1 to 64 of a-z, 0-9, '-', '_', '.', with a letter or digit at both ends")
  .refine((username) => !RESERVED_USERNAMES.has(username), "is reserved");
/** What people call an account or a token: a line of text. */
export const DisplayNameSchema = z
  .string()
  .min(1)
  .max(255)
  .regex(/^[^\p{Cc}\p{Cs}]*$/u, "must have no control characters");

export const CreateAccountSchema = z
  .strictObject({
    type: z.enum(["user", "organization"]),
    username: UsernameSchema,
    name: DisplayNameSchema,
    limits: z
      .strictObject({
        creates_per_minute: requestsPerMinute.optional(),
        reads_per_minute: requestsPerMinute.optional().describe("of everything that creates nothing"),
        egress: z
          .boolean()
          .optional()
          .describe("its models may open connections to public addresses, where their versions ask for it"),
      })
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
      limits: z.object({
        creates_per_minute: z.number().int(),
        reads_per_minute: z.number().int(),
        egress: z.boolean(),
      }),
      created_at: z.string(),
    }),
    token: z.string().describe("shown this once"),
  })
  .openapi("CreatedAccount");
