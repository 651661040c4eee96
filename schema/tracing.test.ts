import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  childOf,
  otlpBody,
  otlpHeaders,
  ownTrace,
  parseTraceparent,
  predictionContext,
  type Span,
  SpanBuffer,
  traceparent,
} from "./tracing.ts";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const SPAN = "b7ad6b7169203331";

describe("traceparent", () => {
  it("is read as W3C writes it, and written the same", () => {
    const text = `00-${TRACE}-${SPAN}-01`;
    const parsed = parseTraceparent(text);
    expect(parsed).toEqual({ trace_id: TRACE, span_id: SPAN, sampled: true });
    expect(parsed === null ? null : traceparent(parsed)).toBe(text);
    expect(parseTraceparent(`00-${TRACE}-${SPAN}-00`)?.sampled).toBe(false);
    // Of a later version only what we know counts.
    expect(parseTraceparent(`01-${TRACE}-${SPAN}-03-more`)).toEqual({ trace_id: TRACE, span_id: SPAN, sampled: true });
  });

  it.each([
    ["nothing", undefined],
    ["an empty text", ""],
    ["a trace of zeros", `00-${"0".repeat(32)}-${SPAN}-01`],
    ["a span of zeros", `00-${TRACE}-${"0".repeat(16)}-01`],
    ["capitals", `00-${TRACE.toUpperCase()}-${SPAN}-01`],
    ["more in version 00", `00-${TRACE}-${SPAN}-01-x`],
    ["version ff", `ff-${TRACE}-${SPAN}-01`],
    ["a short one", `00-${TRACE.slice(1)}-${SPAN}-01`],
    ["another header line", `00-${TRACE}-${SPAN}-01\r\nx: y`],
  ])("is not %s", (_what, text) => {
    expect(parseTraceparent(text)).toBeNull();
  });

  it("of a child keeps the trace, and of none begins one", () => {
    const parent = { trace_id: TRACE, span_id: SPAN, sampled: false };
    const child = childOf(parent);
    expect(child).toEqual({ ...parent, span_id: expect.stringMatching(/^[0-9a-f]{16}$/) });
    expect(child.span_id).not.toBe(SPAN);
    expect(parseTraceparent(traceparent(childOf(null)))).toMatchObject({ sampled: true });
    expect(childOf(null).trace_id).not.toBe(childOf(null).trace_id);
  });

  it("of a prediction is found again from its id", () => {
    const request = { trace_id: TRACE, span_id: SPAN, sampled: true };
    expect(predictionContext(request, "a")).toEqual(predictionContext(request, "a"));
    expect(predictionContext(request, "a")).not.toEqual(predictionContext(request, "b"));
  });

  it("of a prediction that no request made begins with the prediction, and wants spans as its cause did", () => {
    const own = ownTrace("a", traceparent({ trace_id: TRACE, span_id: SPAN, sampled: false }));
    expect(own).toEqual(predictionContext(own, "a"));
    expect([own.trace_id, own.sampled]).toEqual([expect.stringMatching(/^[0-9a-f]{32}$/), false]);
    expect(ownTrace("a", null)).toEqual({ ...own, sampled: true });
    expect(ownTrace("b", null).trace_id).not.toBe(own.trace_id);
  });
});

describe("an export", () => {
  const span: Span = {
    trace_id: TRACE,
    span_id: SPAN,
    parent_span_id: null,
    name: "predict",
    kind: "internal",
    start_ms: 1_700_000_000_123,
    end_ms: 1_700_000_000_124.5,
    attributes: { text: "a", whole: 3, part: 0.5, yes: true },
    error: "model.crashed",
  };

  it("is OTLP's JSON: ids in hex, times in nanoseconds as text, typed values", () => {
    const [resource] = (JSON.parse(otlpBody({ "service.name": "x" }, [span])) as { resourceSpans: unknown[] })
      .resourceSpans;
    expect(resource).toEqual({
      resource: { attributes: [{ key: "service.name", value: { stringValue: "x" } }] },
      scopeSpans: [
        {
          scope: { name: "cogway" },
          spans: [
            {
              traceId: TRACE,
              spanId: SPAN,
              name: "predict",
              kind: 1,
              startTimeUnixNano: "1700000000123000000",
              endTimeUnixNano: "1700000000124500000",
              attributes: [
                { key: "text", value: { stringValue: "a" } },
                { key: "whole", value: { intValue: "3" } },
                { key: "part", value: { doubleValue: 0.5 } },
                { key: "yes", value: { boolValue: true } },
              ],
              status: { code: 2, message: "model.crashed" },
            },
          ],
        },
      ],
    });
  });

  it("tells time to the nanosecond, and never an end before its start", () => {
    void fc.assert(
      fc.property(
        fc.double({ min: 0, max: 4e12, noNaN: true }),
        fc.double({ min: 0, max: 4e12, noNaN: true }),
        (start, end) => {
          const body = JSON.parse(otlpBody({}, [{ ...span, start_ms: start, end_ms: end }])) as {
            resourceSpans: { scopeSpans: { spans: { startTimeUnixNano: string; endTimeUnixNano: string }[] }[] }[];
          };
          const made = body.resourceSpans[0]?.scopeSpans[0]?.spans[0];
          const startNs = BigInt(made?.startTimeUnixNano ?? "-1");
          expect(BigInt(made?.endTimeUnixNano ?? "-1")).toBeGreaterThanOrEqual(startNs);
          expect(Math.abs(Number(startNs) / 1e6 - start)).toBeLessThan(0.01);
        },
      ),
      // Its nanoseconds round up to a whole millisecond.
      { examples: [[0.9999999, 0.9999999]] },
    );
  });

  it("waits in bounded room, and counts what did not fit", () => {
    const buffer = new SpanBuffer();
    for (let n = 0; n < SpanBuffer.SPANS_MAX + 7; n++) buffer.add(span);
    expect(buffer.counts()).toEqual({ exported: 0, dropped: 7, waiting: SpanBuffer.SPANS_MAX });
    const taken = buffer.take();
    expect(taken).toHaveLength(SpanBuffer.BATCH_SPANS_MAX);
    buffer.settle(taken.length, true);
    buffer.settle(buffer.take().length, false);
    expect(buffer.counts()).toMatchObject({ exported: 512, dropped: 519, waiting: SpanBuffer.SPANS_MAX - 1_024 });
  });

  it("takes the collector's headers as OpenTelemetry writes them", () => {
    expect(otlpHeaders("Authorization=Bearer%20a%3Db, x-team = y ,bad,=z")).toEqual({
      authorization: "Bearer a=b",
      "x-team": "y",
      "content-type": "application/json",
    });
  });
});
