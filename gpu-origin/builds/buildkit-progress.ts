/** What BuildKit tells while it builds (`moby.buildkit.trace`, a protobuf message in base64), as lines and as the failed step. Pure but for its memory. */
import { StringDecoder } from "node:string_decoder";
import protobuf from "protobufjs";
import { z } from "zod";

// moby.buildkit.v1.StatusResponse, as far as it is read here.
const StatusResponse = protobuf.Root.fromJSON({
  nested: {
    Timestamp: { fields: { seconds: { type: "int64", id: 1 }, nanos: { type: "int32", id: 2 } } },
    Vertex: {
      fields: {
        digest: { type: "string", id: 1 },
        name: { type: "string", id: 3 },
        cached: { type: "bool", id: 4 },
        started: { type: "Timestamp", id: 5 },
        error: { type: "string", id: 7 },
      },
    },
    VertexLog: { fields: { vertex: { type: "string", id: 1 }, msg: { type: "bytes", id: 4 } } },
    StatusResponse: {
      fields: {
        vertexes: { rule: "repeated", type: "Vertex", id: 1 },
        logs: { rule: "repeated", type: "VertexLog", id: 3 },
      },
    },
  },
}).lookupType("StatusResponse");

const StatusSchema = z.object({
  vertexes: z
    .array(
      z.object({
        digest: z.string(),
        name: z.string(),
        cached: z.boolean().default(false),
        started: z.unknown().optional(),
        error: z.string().default(""),
      }),
    )
    .default([]),
  logs: z.array(z.object({ vertex: z.string(), msg: z.instanceof(Uint8Array) })).default([]),
});

const MessageSchema = z.object({
  id: z.string().optional(),
  aux: z.unknown().optional(),
  error: z.string().optional(),
  errorDetail: z.object({ message: z.string() }).optional(),
});

/** Last lines of a step that failed: what its author sees first. */
const TAIL_LINES = 12;
/** A step's unfinished line is cut here. */
const LINE_CHARACTERS_MAX = 16_384;

export interface StepFailure {
  /** as BuildKit names the step: stage, number and instruction */
  step: string;
  /** the last lines that it wrote */
  tail: string[];
}

export interface ProgressWatch {
  /** A step has begun, or was taken from the cache. Its name is BuildKit's. */
  onStep(name: string, isCached: boolean): void;
  onLine(line: string): void;
}

interface Step {
  name: string;
  isShown: boolean;
  decoder: StringDecoder;
  rest: string;
  tail: string[];
}

/** Reads the messages of one build. */
export class BuildProgress {
  readonly #watch: ProgressWatch;
  readonly #steps = new Map<string, Step>();
  #failed: Step | null = null;
  #error: string | null = null;
  #imageId: string | null = null;

  constructor(watch: ProgressWatch) {
    this.#watch = watch;
  }

  /** Id of the image, when it is made. */
  get imageId(): string | null {
    return this.#imageId;
  }

  /** What the engine says of the failure, when it said so. */
  get error(): string | null {
    return this.#error;
  }

  get failure(): StepFailure | null {
    return this.#failed === null ? null : { step: this.#failed.name, tail: this.#failed.tail };
  }

  /** One line of the answer's body. What is not understood is left out. */
  read(line: string): void {
    const message = MessageSchema.safeParse(parseJson(line));
    if (!message.success) return;
    const { id, aux, error, errorDetail } = message.data;
    if (error !== undefined || errorDetail !== undefined) this.#error = errorDetail?.message ?? error ?? "";
    if (id === "moby.image.id") {
      const image = z.object({ ID: z.string() }).safeParse(aux);
      if (image.success) this.#imageId = image.data.ID;
    }
    if (id === "moby.buildkit.trace" && typeof aux === "string") this.#readStatus(Buffer.from(aux, "base64"));
  }

  /** Unfinished lines, when the build has ended. */
  end(): void {
    for (const step of this.#steps.values()) {
      if (step.rest !== "") this.#line(step, step.rest);
      step.rest = "";
    }
  }

  #readStatus(bytes: Buffer): void {
    let decoded: unknown;
    try {
      decoded = StatusResponse.toObject(StatusResponse.decode(bytes));
    } catch {
      return;
    }
    const parsed = StatusSchema.safeParse(decoded);
    if (!parsed.success) return;
    for (const vertex of parsed.data.vertexes) {
      const step = this.#step(vertex.digest, vertex.name);
      step.name = vertex.name;
      if (!step.isShown && (vertex.started !== undefined || vertex.cached)) this.#show(step, vertex.cached);
      if (vertex.error !== "" && !/context canceled/.test(vertex.error)) this.#failed = step;
    }
    for (const log of parsed.data.logs) {
      const step = this.#step(log.vertex, "");
      if (!step.isShown) this.#show(step, false);
      this.#text(step, step.decoder.write(Buffer.from(log.msg)));
    }
  }

  #step(digest: string, name: string): Step {
    const known = this.#steps.get(digest);
    if (known !== undefined) return known;
    const step = { name, isShown: false, decoder: new StringDecoder("utf8"), rest: "", tail: [] };
    this.#steps.set(digest, step);
    return step;
  }

  #show(step: Step, isCached: boolean): void {
    step.isShown = true;
    this.#watch.onStep(step.name, isCached);
  }

  #text(step: Step, text: string): void {
    const lines = `${step.rest}${text}`.split(/\r?\n|\r/);
    step.rest = (lines.pop() ?? "").slice(-LINE_CHARACTERS_MAX);
    for (const line of lines) this.#line(step, line);
  }

  #line(step: Step, line: string): void {
    const cut = line.slice(0, LINE_CHARACTERS_MAX);
    if (cut.trim() === "") return;
    step.tail.push(cut);
    if (step.tail.length > TAIL_LINES) step.tail.shift();
    this.#watch.onLine(cut);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
