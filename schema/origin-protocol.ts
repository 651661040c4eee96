/**
 * Every message between the edge and an origin, parsed by zod at both ends. Additions are optional members; anything else raises
 * {@link ORIGIN_PROTOCOL_VERSION}. All requests are signed (schema/request-signature.ts) but `register` with a join token.
 *
 * Edge to origin:
 *   PUT  /v1/attempts/{prediction_id}/{attempt}          AttemptStart   -> 202 AttemptState  (starts once, however often it is sent)
 *   GET  /v1/attempts/{prediction_id}/{attempt}                         -> 200 AttemptState, 404 code attempt.unknown (this origin lost it or never had it)
 *   POST /v1/attempts/{prediction_id}/{attempt}/cancel   AttemptCancel  -> 202 AttemptState
 *   POST /v1/instances                                   InstanceBoot   -> 202 InstanceStatus (idempotent by instance_id)
 *   POST /v1/instances/{instance_id}/drain               InstanceDrain  -> 202 InstanceStatus
 *   POST /v1/instances/{instance_id}/pause                              -> 202 InstanceStatus (idempotent), 409 code instance.busy
 *   POST /v1/instances/{instance_id}/resume                             -> 202 InstanceStatus (idempotent)
 *   GET  /v1/instances                                                  -> 200 { instances: InstanceStatus[] }
 *   PUT  /v1/builds/{build_id}                           BuildStart     -> 202 BuildState (starts once, however often it is sent)
 *   GET  /v1/builds/{build_id}                                          -> 200 BuildState, 404 code build.unknown
 *   POST /v1/builds/{build_id}/cancel                                   -> 202 BuildState
 *   GET  /healthz                                        (unsigned)     -> 200 { status: "ok", incarnation }
 * Origin to edge:
 *   POST /origin/v1/register                             Register       -> 200 RegisterResult
 *   POST /origin/v1/heartbeat                            Heartbeat      -> 200 HeartbeatResult
 *   POST /origin/v1/events                               EventBatch     -> 200 EventBatchResult (an acknowledgement means stored)
 *   PUT  /origin/v1/outputs/{prediction_id}/{attempt}/{n}/{name}  bytes -> 201 FileRef (idempotent; Content-Type and cogway-body-sha256 describe the bytes)
 *     A file of more than OUTPUT_PART_BYTES goes in parts, below the same path; each call may be repeated:
 *     POST …/parts                                       OutputBegin    -> 200 {}
 *     PUT  …/parts/{part}                                bytes          -> 200 OutputPart (from 1; equal sizes but for the last, as R2 wants them)
 *     POST …/complete                                    OutputComplete -> 201 FileRef
 *     404 code upload.unknown: there is no such upload, or its parts are not these; begin again
 *   POST /origin/v1/weights/{prediction_id}/{attempt}    FileRef        -> 200 { key } (keeps an output file of a training beyond its data; idempotent)
 *   GET  /origin/v1/weights/{sha256}/{name}                             -> 200 bytes (weights of a fine-tune, named by InstanceBoot or AttemptStart)
 *   GET  /origin/v1/inputs/{prediction_id}                              -> 200 the input object, where AttemptStart carries input_ref
 *   PUT  /origin/v1/models/{name}                        ModelAnnounce  -> 200 (operator's origins only)
 *   POST /origin/v1/builds/{build_id}/events             BuildEvents    -> 200 BuildAck (an acknowledgement means stored)
 *   GET  /origin/v1/packages/{owner}/{name}/{version_id}                -> 200 Package (what makes a version start on any origin)
 *   GET  /origin/v1/repositories/{owner}/{name}/manifests/{digest}      -> 200 bytes
 *   GET  /origin/v1/repositories/{owner}/{name}/blobs/{digest}          -> 200 or 206 bytes (Range)
 *   POST /origin/v1/repositories/{owner}/{name}/token                   -> 200 { token, expires_in } (for an engine that pulls an image from /v2/)
 * A refusal is an RFC 9457 problem with `code`.
 */
import { z } from "zod";
import { BuildEventSchema, PACKAGE_KINDS, PackageRefSchema } from "./packages.ts";

export const ORIGIN_PROTOCOL_VERSION = 1;
/** An origin reports this often; one that is silent for ORIGIN_DEAD_AFTER_MS is lost. Detection within 25 s at p99 (design section 6). */
export const HEARTBEAT_INTERVAL_MS = 5_000;
export const ORIGIN_DEAD_AFTER_MS = 20_000;
/** With no event for this long the edge asks the origin about the attempt. */
export const LEASE_TTL_MS = 20_000;
/** A batch is at most this many bytes of JSON and this many events; the rest waits one round trip. */
export const EVENT_BATCH_BYTES_MAX = 1_048_576;
export const EVENT_BATCH_EVENTS_MAX = 5_000;
/** A single event value above this is cut (logs) or refused (outputs must be files then). Equals the R2-reference bound of stored values. */
export const EVENT_VALUE_BYTES_MAX = 4_194_304;

/** The most bytes of a file in one request: platforms bound bodies (Cloudflare at 100 MB). Not below R2's smallest part, 5 MiB. */
export const OUTPUT_PART_BYTES = 67_108_864;
/** Parts of one file, R2's bound. */
const OUTPUT_PARTS_MAX = 10_000;

/**
 * A file that a model made, inside an output value, at any depth. `n` counts the files of one attempt's prediction from 0 in the model's order.
 * The bytes lie in R2 at `outputs/{prediction_id}/{n}/{name}` before any event names them.
 */
export const FileRefSchema = z.object({
  $cogway_file: z.object({
    n: z.number().int().min(0),
    name: z.string().min(1).max(255),
    content_type: z.string().max(255),
    size_bytes: z.number().int().min(0),
    sha256: z.string().length(64),
  }),
});
export type FileRef = z.infer<typeof FileRefSchema>;

/**
 * Begins a file in parts. `sha256` is of the whole file. The origin takes it in the same pass over the bytes as the digests of the parts, and the edge holds
 * each part to its own, so it is right as long as the origin's word is; to take it again the edge would have to read gigabytes back within one request.
 */
export const OutputBeginSchema = FileRefSchema.shape.$cogway_file.pick({
  content_type: true,
  size_bytes: true,
  sha256: true,
});
export type OutputBegin = z.infer<typeof OutputBeginSchema>;

/** A part that R2 has, and R2's name for those bytes. */
export const OutputPartSchema = z.object({
  part: z.number().int().min(1).max(OUTPUT_PARTS_MAX),
  etag: z.string().min(1).max(255),
});
export type OutputPart = z.infer<typeof OutputPartSchema>;

export const OutputCompleteSchema = z.object({ parts: z.array(OutputPartSchema).min(1).max(OUTPUT_PARTS_MAX) });

export const HardwareSchema = z.object({
  /** the hardware SKU, such as `cpu` */
  sku: z.string(),
  name: z.string(),
  cpus: z.number().min(0),
  memory_bytes: z.number().int().min(0),
  gpus: z.number().int().min(0),
});

/** Weights of a fine-tune, to be fetched from `path` on the edge, signed, and checked against the digest. */
const WeightsSourceSchema = z.object({
  path: z.string().regex(/^\/origin\/v1\/weights\/[0-9a-f]{64}\/[\w.-]+$/),
  sha256: z.string().length(64),
  size_bytes: z.number().int().min(0),
});
export type WeightsSource = z.infer<typeof WeightsSourceSchema>;

// ---- attempts -------------------------------------------------------------------------------------------------------------

export const AttemptStartSchema = z.object({
  protocol: z.literal(ORIGIN_PROTOCOL_VERSION),
  prediction_id: z.string().regex(/^[a-z2-7]{26}$/),
  attempt: z.number().int().min(1),
  instance_id: z.string(),
  version_id: z.string(),
  account_id: z.string(),
  /** already validated and completed by the edge; nulls of optional members removed. Absent when `input_ref` is given. */
  input: z.record(z.string(), z.unknown()).optional(),
  /** path on the edge to fetch the input from (inputs above 256 KiB) */
  input_ref: z.string().optional(),
  /** of a fine-tune that runs on its base's instance: what the input `replicate_weights` is to be. Never part of `input`, which its caller sees. */
  weights: WeightsSourceSchema.optional(),
  /** time left until the caller's deadline, milliseconds */
  deadline_ms: z.number().int().positive().optional(),
  /** W3C traceparent of the prediction's span: the attempt's own are below it. Absent: nobody traces it */
  traceparent: z.string().max(256).optional(),
});
export type AttemptStart = z.infer<typeof AttemptStartSchema>;

export const AttemptStateSchema = z.object({
  prediction_id: z.string(),
  attempt: z.number().int(),
  /** `waiting`: accepted, the slot is not free yet (the 409 race). `running`: given to the model. `finished`: the terminal event is in the journal. */
  state: z.enum(["waiting", "running", "finished", "lost"]),
  /** whether the model may have seen the input */
  started: z.boolean(),
  /** index of the newest event in the journal, -1 when none */
  last_event_i: z.number().int().min(-1),
});
export type AttemptState = z.infer<typeof AttemptStateSchema>;

export const AttemptCancelSchema = z.object({
  reason: z.enum(["user", "deadline", "max_cost", "budget", "fenced", "shutdown"]),
  /** after this long without an end, by force */
  force_after_ms: z.number().int().min(0),
});
export type AttemptCancel = z.infer<typeof AttemptCancelSchema>;

const eventBase = {
  /** rises by one within the attempt, from 0 */
  i: z.number().int().min(0),
  /** milliseconds since the attempt was accepted, on the origin's monotonic clock */
  t_ms: z.number().min(0),
};

export const AttemptEventSchema = z.discriminatedUnion("type", [
  z.object({ ...eventBase, type: z.literal("started") }),
  z.object({
    ...eventBase,
    type: z.literal("output"),
    /** `append`: one element of an iterator's output. `set`: the whole output (everything that is not an iterator). */
    mode: z.enum(["append", "set"]),
    value: z.unknown(),
    /** not shown on streams, since its tokens were streamed already (final value of a model with a live token metric) */
    silent: z.boolean().optional(),
  }),
  z.object({ ...eventBase, type: z.literal("log"), source: z.enum(["stdout", "stderr"]), data: z.string() }),
  z.object({
    ...eventBase,
    type: z.literal("metric"),
    name: z.string(),
    value: z.unknown(),
    mode: z.enum(["replace", "increment", "append"]),
  }),
  z.object({
    ...eventBase,
    type: z.literal("finished"),
    status: z.enum(["succeeded", "failed", "canceled"]),
    /** the model's own words, for `failed` */
    error: z.string().optional(),
    /** for failures that are not the model's own: `model.crashed`, `input.download_failed`, `output.upload_failed`, `model.setup_failed`, `origin.shutdown` … */
    code: z.string().optional(),
    /** of a training: what the trainer returned. It comes with the end, since the edge makes a version of it before anybody sees either. */
    output: z.unknown().optional(),
    metrics: z.record(z.string(), z.unknown()),
    predict_time_s: z.number().min(0),
  }),
  /** This origin no longer has the attempt (it was killed). `started`: the model may have seen the input. Terminal for the attempt. */
  z.object({ ...eventBase, type: z.literal("lost"), started: z.boolean(), reason: z.string() }),
]);
export type AttemptEvent = z.infer<typeof AttemptEventSchema>;

// ---- instances ------------------------------------------------------------------------------------------------------------

export const InstanceBootSchema = z.object({
  protocol: z.literal(ORIGIN_PROTOCOL_VERSION),
  instance_id: z.string().regex(/^[a-z2-7]{10,26}$/),
  /** which DeploymentObject owns it; echoed in every status */
  deployment_key: z.string(),
  version_id: z.string(),
  slots: z.number().int().min(1),
  memory_bytes: z.number().int().min(0),
  setup_timeout_ms: z.number().int().positive(),
  /** which function the instance serves; absent is `predict` */
  mode: z.enum(["predict", "train"]).optional(),
  /** weights that setup gets (COG_WEIGHTS) */
  weights: WeightsSourceSchema.optional(),
  /** where an origin that has not got the version takes it from; absent for versions of the operator's own folders */
  package: PackageRefSchema.optional(),
  /** a model of the operator: may run where models are not kept apart. Absent is trusted, as all were before packages. */
  is_trusted: z.boolean().optional(),
  /** may open connections to public addresses */
  egress: z.boolean().optional(),
  /** devices that it gets for itself */
  gpus: z.number().int().min(0).optional(),
  /** hardware SKU that it was placed for: which kind of device, where a host has several */
  hardware: z.string().optional(),
});
export type InstanceBoot = z.infer<typeof InstanceBootSchema>;

export const InstanceDrainSchema = z.object({
  reason: z.enum(["idle", "evicted", "released", "shutdown"]),
  /** running predictions get this long */
  grace_ms: z.number().int().min(0),
});

export const InstanceStatusSchema = z.object({
  instance_id: z.string(),
  deployment_key: z.string(),
  version_id: z.string(),
  /**
   * boot: process starting or worker restarting; setup: model loading; then ready, draining, stopped (with a reason), failed (setup failed). `paused`: it was
   * idle, and is held in memory without running until it is resumed or ended; to its deployment it is gone.
   */
  state: z.enum(["boot", "setup", "ready", "draining", "stopped", "failed", "paused"]),
  slots: z.number().int().min(1),
  slots_busy: z.number().int().min(0),
  memory_bytes: z.number().int().min(0),
  /** milliseconds that each finished stage took */
  boot_ms: z.number().optional(),
  setup_ms: z.number().optional(),
  /** one line; class and message for `failed` */
  reason: z.string().optional(),
  /** last 16 KiB of setup and process logs, for the model's owner and the operator only */
  logs: z.string().optional(),
});
export type InstanceStatus = z.infer<typeof InstanceStatusSchema>;

// ---- origin to edge -------------------------------------------------------------------------------------------------------

const CapacitySchema = z.object({
  instances: z.number().int().min(1),
  memory_bytes: z.number().int().min(0),
  /** devices that work; absent is none */
  gpus: z.number().int().min(0).optional(),
});

export const RegisterSchema = z.object({
  protocol: z.literal(ORIGIN_PROTOCOL_VERSION),
  /** the first time: a one-time token. Later calls are signed instead. */
  join_token: z.string().optional(),
  origin_id: z.string().optional(),
  /** where the edge reaches it: https in production, loopback only locally */
  url: z.url(),
  /** new at every start of the process: tells a restart from a reconnection */
  incarnation: z.string(),
  region: z.string().default("local"),
  driver: z.string(),
  hardware: z.array(HardwareSchema).min(1),
  capacity: CapacitySchema,
  /** what it can run. Absent: only what it has prepared itself. */
  runs: z
    .object({
      packages: z.array(z.enum(PACKAGE_KINDS)),
      /** models of anybody, since they are kept apart (or the operator said so) */
      untrusted: z.boolean(),
    })
    .optional(),
  instances: z.array(InstanceStatusSchema),
});
export type Register = z.infer<typeof RegisterSchema>;

export const RegisterResultSchema = z.object({
  origin_id: z.string(),
  /** only in answer to a join token: the key to sign with, shown this once */
  key: z.object({ key_id: z.string(), secret: z.string() }).optional(),
});
export type RegisterResult = z.infer<typeof RegisterResultSchema>;

export const HeartbeatSchema = z.object({
  incarnation: z.string(),
  instances: z.array(InstanceStatusSchema),
  load: z.object({ memory_used_bytes: z.number(), load_average: z.number() }).optional(),
  /** where it has changed, as when a device failed */
  capacity: CapacitySchema.optional(),
});
export type Heartbeat = z.infer<typeof HeartbeatSchema>;

export const HeartbeatResultSchema = z.object({
  /** false: the edge does not know this incarnation; register again */
  known: z.boolean(),
  /** instances that no deployment owns: drain them */
  unowned: z.array(z.string()),
});

export const AttemptBatchSchema = z.object({
  prediction_id: z.string(),
  attempt: z.number().int(),
  events: z.array(AttemptEventSchema),
});
export type AttemptBatch = z.infer<typeof AttemptBatchSchema>;

export const EventBatchSchema = z.object({
  protocol: z.literal(ORIGIN_PROTOCOL_VERSION),
  attempts: z.array(AttemptBatchSchema),
  /** changes of instance states since the last acknowledged batch, newest state each */
  instances: z.array(InstanceStatusSchema),
});
export type EventBatch = z.infer<typeof EventBatchSchema>;

export const AttemptAckSchema = z.object({
  prediction_id: z.string(),
  attempt: z.number().int(),
  /** events up to and including this index are stored: forget them */
  through_i: z.number().int(),
  /**
   * `stored`; `fenced`: a newer attempt or a terminal state exists: stop the model and forget the attempt;
   * `unknown`: no such prediction: forget; `retry`: not stored this time, send again.
   */
  outcome: z.enum(["stored", "fenced", "unknown", "retry"]),
});
export type AttemptAck = z.infer<typeof AttemptAckSchema>;
export const EventBatchResultSchema = z.object({ acks: z.array(AttemptAckSchema) });

// ---- builds -----------------------------------------------------------------------------------------------------------------

export const BuildStartSchema = z.object({
  protocol: z.literal(ORIGIN_PROTOCOL_VERSION),
  build_id: z.string().regex(/^[a-z2-7]{26}$/),
  /** owner/name */
  repository: z.string(),
  /** digest of the source manifest (schema/packages.ts) */
  manifest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  is_trusted: z.boolean(),
  time_limit_ms: z.number().int().positive(),
  disk_limit_bytes: z.number().int().positive(),
});
export type BuildStart = z.infer<typeof BuildStartSchema>;

export const BuildStateSchema = z.object({
  build_id: z.string(),
  state: z.enum(["queued", "running", "finished"]),
  /** index of the newest event, -1 when none */
  last_event_i: z.number().int().min(-1),
});
export type BuildState = z.infer<typeof BuildStateSchema>;

export const BuildEventsSchema = z.object({
  protocol: z.literal(ORIGIN_PROTOCOL_VERSION),
  events: z.array(BuildEventSchema).min(1),
});
export type BuildEvents = z.infer<typeof BuildEventsSchema>;

export const BuildAckSchema = z.object({
  through_i: z.number().int(),
  /** as of attempts */
  outcome: z.enum(["stored", "fenced", "unknown"]),
});
export type BuildAck = z.infer<typeof BuildAckSchema>;

export const ModelAnnounceSchema = z.object({
  /** `preparing`: environment or schema being made; `ready`: `version` given; `failed`: `reason` given */
  state: z.enum(["preparing", "ready", "failed"]),
  // What is absent stays as it is; null takes it away.
  title: z.string().nullable().optional(),
  description: z.string().nullable().optional(),
  tags: z.array(z.string()).optional(),
  readme: z.string().nullable().optional(),
  weights_license: z.string().nullable().optional(),
  /** of a new model: public */
  visibility: z.enum(["public", "private"]).optional(),
  /** slugs */
  collections: z.array(z.string()).optional(),
  /** kept warm, with a stable schema, for this price of one unit of its output */
  official: z
    .object({ unit: z.string().min(1).max(64), price_micros: z.number().int().min(0) })
    .nullable()
    .optional(),
  /** it promises its callers not to break them */
  stable: z.boolean().optional(),
  reason: z.string().optional(),
  example_input: z.record(z.string(), z.unknown()).optional(),
  version: z
    .object({
      /** SHA-256 of the folder's content as packed */
      id: z.string().regex(/^[0-9a-f]{64}$/),
      cog_version: z.string(),
      openapi_schema: z.record(z.string(), z.unknown()),
      slots: z.number().int().min(1),
      memory_bytes: z.number().int().min(0),
      /** what a training needs, where that is not what a prediction needs */
      train_memory_bytes: z.number().int().min(0).optional(),
      hardware: z.string(),
      idempotent: z.boolean(),
      /** devices of one instance; absent is none */
      gpus: z.number().int().min(0).optional(),
      /** it asks to open connections to public addresses */
      egress: z.boolean().optional(),
    })
    .optional(),
});
export type ModelAnnounce = z.infer<typeof ModelAnnounceSchema>;
