/** A span around one step of a request. */
import { isTracing, recordSpan } from "../../durable-objects/telemetry.ts";
import { childOf } from "../../schema/tracing.ts";
import type { Edge } from "../env.ts";

/** Does `step`; its span is below the request's. Costs nothing where no spans are wanted. */
export async function traced<T>(edge: Edge, name: string, step: () => Promise<T>): Promise<T> {
  const { env, trace } = edge;
  if (trace?.sampled !== true || !isTracing(env)) return step();
  const start_ms = Date.now();
  let error: string | null = null;
  try {
    return await step();
  } catch (thrown) {
    error = thrown instanceof Error ? thrown.name : "error";
    throw thrown;
  } finally {
    const { trace_id, span_id } = childOf(trace);
    const span = { trace_id, span_id, parent_span_id: trace.span_id, name, kind: "internal" } as const;
    recordSpan(env, edge.later, { ...span, start_ms, end_ms: Date.now(), attributes: {}, error });
  }
}
