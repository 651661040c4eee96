/** The spans of one attempt: all of it, what the model did, and how its instance came to be where it is the first to run there. */
import { childOf, parseTraceparent, type Span, type TraceContext, traceparent } from "../schema/tracing.ts";

/** How an instance came to be ready, epoch milliseconds. */
export interface ColdStart {
  boot_started_at: number;
  boot_ms: number;
  setup_ms: number;
}

export class AttemptTrace {
  /** the edge's span of the whole prediction */
  readonly #parent: TraceContext;
  readonly #attempt: TraceContext;
  readonly #predict: TraceContext;
  readonly #attributes: Record<string, string | number>;
  readonly #startedAt = Date.now();
  #predictStartedAt: number | null = null;

  /** Null where nobody traces the prediction. */
  static of(start: { prediction_id: string; attempt: number; instance_id: string; traceparent?: string | undefined }) {
    const parent = parseTraceparent(start.traceparent);
    return parent === null ? null : new AttemptTrace(parent, start);
  }

  private constructor(
    parent: TraceContext,
    { prediction_id, attempt, instance_id }: { prediction_id: string; attempt: number; instance_id: string },
  ) {
    this.#parent = parent;
    this.#attempt = childOf(parent);
    this.#predict = childOf(this.#attempt);
    this.#attributes = {
      "cogway.prediction.id": prediction_id,
      "cogway.attempt": attempt,
      "cogway.instance.id": instance_id,
    };
  }

  get traceId(): string {
    return this.#parent.trace_id;
  }

  /** What the model's own spans are below. */
  get header(): string {
    return traceparent(this.#predict);
  }

  predictStarted(): void {
    this.#predictStartedAt ??= Date.now();
  }

  /** All of its spans; none where nobody wants them. */
  spans(ending: { status: string; code?: string | undefined }, cold: ColdStart | null): Span[] {
    if (!this.#parent.sampled) return [];
    const now = Date.now();
    const error = ending.status === "failed" ? (ending.code ?? "the model failed") : null;
    const spans = [
      this.#span("attempt", this.#attempt, this.#parent, this.#startedAt, now, error, {
        "cogway.status": ending.status,
      }),
    ];
    if (this.#predictStartedAt !== null) {
      spans.push(this.#span("predict", this.#predict, this.#attempt, this.#predictStartedAt, now, error));
    }
    if (cold !== null) {
      const { boot_started_at, boot_ms, setup_ms } = cold;
      const readyAt = boot_started_at + boot_ms;
      const below = (): TraceContext => childOf(this.#parent);
      spans.push(this.#span("boot", below(), this.#parent, boot_started_at, readyAt, null));
      spans.push(this.#span("setup", below(), this.#parent, readyAt, readyAt + setup_ms, null));
    }
    return spans;
  }

  #span(
    name: string,
    own: TraceContext,
    parent: TraceContext,
    start_ms: number,
    end_ms: number,
    error: string | null,
    more: Record<string, string> = {},
  ): Span {
    const { trace_id, span_id } = own;
    const attributes = { ...this.#attributes, ...more };
    return {
      trace_id,
      span_id,
      parent_span_id: parent.span_id,
      name,
      kind: "internal",
      start_ms,
      end_ms,
      attributes,
      error,
    };
  }
}
