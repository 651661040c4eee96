/** Deployments on the wire: Replicate's HTTP API, with members of our own that its clients ignore. */
import { z } from "@hono/zod-openapi";
import { NAME_PATTERN, parseModelReference, VERSION_ID_PATTERN } from "../ids.ts";
import { SCALING_REASONS } from "../scaling.ts";
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

const MeasuresSchema = z.object({
  queued: z.number().int(),
  busy_slots: z.number().int(),
  ready_slots: z.number().int(),
  starting_instances: z.number().int(),
  arrivals_per_s: z.number().describe("predictions that came, a second, in the stable window"),
  panic_arrivals_per_s: z.number().describe("the same in the panic window, which sees bursts"),
  run_ms: z.number().nullable().describe("moving average of a prediction's time; null before the first"),
  start_ms: z.number().nullable().describe("moving average of boot and setup; null before the first"),
  queue_delay_ms: z.number().nullable().describe("how long the last in the queue waits with what is there and starts"),
  keep_idle_ms: z.number().describe("how long the next instance to go is kept idle, learned from when it was needed"),
});
const reason = z.string().describe(`one of: ${SCALING_REASONS.join(", ")}`);
export const ScalingSchema = z
  .object({
    current: z.object({
      wanted_instances: z.number().int(),
      reason,
      lanes: z.number().int().describe("objects that share its work: more than one above 100 leases a second"),
      ...MeasuresSchema.shape,
      held_back: z
        .object({ until: z.string(), detail: z.string() })
        .nullable()
        .describe("nothing is placed before, and why"),
    }),
    targets: z.object({
      min_instances: z.number().int(),
      max_instances: z.number().int(),
      queue_delay_ms: z.number().describe("a queue that is done within this asks for no further instance"),
      utilisation: z.number().describe("share of the slots that the steady load may keep busy"),
    }),
    windows: z.object({ stable_ms: z.number().int(), panic_ms: z.number().int() }),
    decisions: z
      .array(
        z.object({
          at: z.string(),
          from: z.number().int().describe("instances wanted before"),
          to: z.number().int().describe("instances wanted from then on"),
          reason,
          measures: MeasuresSchema,
        }),
      )
      .describe("changes of what is wanted, newest first: the last 200 of seven days"),
  })
  .openapi("DeploymentScaling");

export const DeploymentSchema = z
  .object({
    owner: z.string(),
    name: z.string(),
    current_release: ReleaseSchema,
    status: DeploymentStatusSchema.optional().describe("extra member, of a single deployment"),
  })
  .openapi("Deployment");
export const DeploymentPageSchema = pageOf(DeploymentSchema, "DeploymentPage");
