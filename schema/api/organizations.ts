/** Organizations and their members on the wire. Beyond Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { DisplayNameSchema, UsernameSchema } from "./account.ts";
import { pageOf } from "./common.ts";

const role = z
  .enum(["owner", "admin", "member"])
  .describe("owners may everything, admins manage members, tokens and models, members use and push models");

export const CreateOrganizationSchema = z
  .strictObject({ username: UsernameSchema, name: DisplayNameSchema })
  .openapi("OrganizationRequest");
export const UpdateOrganizationSchema = z.strictObject({ name: DisplayNameSchema }).openapi("OrganizationUpdate");
export const OrganizationSchema = z
  .object({
    type: z.literal("organization"),
    username: z.string(),
    name: z.string(),
    role: role.describe("of the caller"),
    created_at: z.string(),
  })
  .openapi("Organization");
export const OrganizationPageSchema = pageOf(OrganizationSchema, "OrganizationPage");

export const SetMemberSchema = z.strictObject({ role }).openapi("MemberRequest");
export const MemberSchema = z
  .object({ username: z.string(), name: z.string(), role, created_at: z.string() })
  .openapi("Member");
export const MemberPageSchema = pageOf(MemberSchema, "MemberPage");

export const OrganizationParams = z.object({ username: z.string() });
export const MemberParams = OrganizationParams.extend({ member: z.string() });
