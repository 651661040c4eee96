/** Deployments on the wire: Replicate's HTTP API, with members of our own that its clients ignore. */
import { z } from "@hono/zod-openapi";
import { NAME_PATTERN, parseModelReference, VERSION_ID_PATTERN } from "../ids.ts";
import { pageOf } from "./common.ts";

export const MIN_INSTANCES_MAX = 5;
export const MAX_INSTANCES_MAX = 20;

const configuration = {
  version: z.string().regex(VERSION_ID_PATTERN, "must be a version id of 64 hexadecimal digits"),
  hardware: z.string().max(64).describe("a SKU of GET /v1/hardware"),
  min_instances: z.number().int().min(0).max(MIN_INSTANCES_MAX).describe("kept warm without any prediction"),
  max_instances: z
    .number()
    .int()
    .min(0)
    .max(MAX_INSTANCES_MAX)
    .describe("instances that a long queue may lead to; 0, with min_instances 0, disables the deployment"),
};

export const CreateDeploymentSchema = z
  .strictObject({
    name: z
      .string()
      .refine((text) => isName(text), "must be a name of up to 64 lower-case letters, digits, `.`, `_` and `-`")
      .describe("the deployment's name, or owner/name with an organization that you are in"),
    model: z.string().refine((text) => parseModelReference(text)?.kind === "model", "must be owner/name"),
    ...configuration,
  })
  .openapi("DeploymentRequest");

function isName(text: string): boolean {
  const parts = text.split("/");
  return parts.length <= 2 && parts.every((part) => NAME_PATTERN.test(part));
}

export const UpdateDeploymentSchema = z.strictObject(configuration).partial().openapi("DeploymentUpdate");

const AuthorSchema = z.object({
  type: z.enum(["user", "organization"]),
  username: z.string(),
  name: z.string(),
  avatar_url: z.string().nullable(),
  github_url: z.string().nullable(),
});

export const ReleaseSchema = z
  .object({
    number: z.number().int().describe("one more than that of the release before it"),
    model: z.string(),
    version: z.string(),
    created_at: z.string(),
    created_by: AuthorSchema,
    configuration: z.object({ hardware: z.string(), min_instances: z.number().int(), max_instances: z.number().int() }),
  })
  .openapi("Release");
export const ReleasePageSchema = pageOf(ReleaseSchema, "ReleasePage");

export const DeploymentStatusSchema = z
  .object({
    instances: z
      .object({
        boot: z.number().int(),
        setup: z.number().int(),
        ready: z.number().int(),
        draining: z.number().int().describe("finish what they run and go"),
      })
      .describe("how many there are in each state"),
    older_instances: z.number().int().describe("of these, how many still work for an older release"),
    wanted_instances: z.number().int(),
    queue_length: z.number().int(),
    reason: z.string().describe("why so many are wanted"),
  })
  .openapi("DeploymentStatus");

export const DeploymentSchema = z
  .object({
    owner: z.string(),
    name: z.string(),
    current_release: ReleaseSchema,
    status: DeploymentStatusSchema.optional().describe("extra member, of a single deployment"),
  })
  .openapi("Deployment");
export const DeploymentPageSchema = pageOf(DeploymentSchema, "DeploymentPage");
