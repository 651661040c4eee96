/**
 * One trace over everything: a caller's traceparent goes through the edge and the origin into the model's own process, and all three tell one collector on
 * loopback of it. A second port serves the origin's metrics.
 */

import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Prediction } from "./lib/api.ts";
import { WebhookReceiver } from "./lib/receiver.ts";
import { freePort, System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const SPAN_OF_CALLER = "b7ad6b7169203331";
const TOLD_WITHIN_MS = 30_000;

interface OtlpSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
}

/** Takes exports in both of OTLP's forms: JSON of ours, protobuf of the model's. */
class Collector {
  readonly spans: (OtlpSpan & { service: string })[] = [];
  readonly protobufs: Buffer[] = [];
  readonly #server: Server;
  isBroken = false;

  constructor() {
    this.#server = createServer(async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const body = Buffer.concat(chunks);
      if (!this.isBroken) this.#take(request.headers["content-type"] ?? "", body);
      response.writeHead(this.isBroken ? 503 : 200);
      response.end();
    });
  }

  #take(type: string, body: Buffer): void {
    if (type.startsWith("application/x-protobuf")) {
      this.protobufs.push(body);
      return;
    }
    const exported = JSON.parse(body.toString()) as {
      resourceSpans: {
        resource: { attributes: { key: string; value: { stringValue: string } }[] };
        scopeSpans: { spans: OtlpSpan[] }[];
      }[];
    };
    for (const { resource, scopeSpans } of exported.resourceSpans) {
      const service = resource.attributes.find(({ key }) => key === "service.name")?.value.stringValue ?? "";
      for (const { spans } of scopeSpans) this.spans.push(...spans.map((span) => ({ ...span, service })));
    }
  }

  async start(): Promise<string> {
    await new Promise<void>((done) => this.#server.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1/traces`;
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

const collector = new Collector();
let system: System;
let receiver: WebhookReceiver;
let metricsPort: number;
beforeAll(async () => {
  receiver = await WebhookReceiver.start();
  metricsPort = await freePort();
  system = await System.start({
    models: ["traced"],
    env: {
      COGWAY_OTLP_TRACES_URL: await collector.start(),
      COGWAY_METRICS_PORT: String(metricsPort),
      COGWAY_ALLOW_PRIVATE_URLS: "127.0.0.1/32",
    },
  });
});
afterAll(async () => {
  await system?.stop();
  receiver?.stop();
  collector.stop();
});

async function create(traceparent: string): Promise<Prediction & { trace_id?: string }> {
  const answer = await system.api.request<Prediction>("POST", "/v1/models/cogway/traced/predictions", {
    headers: { traceparent, prefer: "wait" },
    body: { input: { text: "a secret word" }, webhook: receiver.url },
  });
  if (answer.status !== 201) throw new Error(`${answer.status}: ${answer.text}`);
  return answer.body;
}

test("one trace id is in the answer, the logs, the webhook and the spans of edge, origin and model", async () => {
  const prediction = await create(`00-${TRACE}-${SPAN_OF_CALLER}-01`);
  expect(prediction).toMatchObject({ status: "succeeded", output: "A SECRET WORD", trace_id: TRACE });
  const wanted = ["prediction", "queue", "admission", "attempt", "predict", "boot", "setup"];
  const spans = await waitFor("spans of edge and origin", TOLD_WITHIN_MS, () => {
    const found = collector.spans.filter(({ traceId }) => traceId === TRACE);
    return wanted.every((name) => found.some((span) => span.name === name)) ? found : null;
  });
  const named = (name: string) => {
    const found = spans.filter((span) => span.name === name);
    expect(found, name).toHaveLength(1);
    return found[0] as (typeof spans)[number];
  };
  const request = named("POST /v1/models/:owner/:name/predictions");
  expect(request.parentSpanId).toBe(SPAN_OF_CALLER);
  expect(named("admission").parentSpanId).toBe(request.spanId);
  const whole = named("prediction");
  expect(whole.parentSpanId).toBe(request.spanId);
  for (const name of ["queue", "attempt", "boot", "setup"]) expect(named(name).parentSpanId, name).toBe(whole.spanId);
  const predict = named("predict");
  expect(predict.parentSpanId).toBe(named("attempt").spanId);
  expect(new Set(spans.map(({ service }) => service))).toEqual(new Set(["cogway-edge", "cogway-origin"]));
  for (const { name, startTimeUnixNano, endTimeUnixNano } of spans) {
    expect(BigInt(endTimeUnixNano), name).toBeGreaterThanOrEqual(BigInt(startTimeUnixNano));
  }

  // The model's own are in protobuf: its trace, below the origin's span, by their bytes.
  const own = await waitFor("spans of the model", TOLD_WITHIN_MS, () =>
    collector.protobufs.find((body) => body.includes("span-of-the-model")),
  );
  expect(own.includes(Buffer.from(TRACE, "hex"))).toBe(true);
  const coglets = collector.protobufs.some((body) => body.includes(Buffer.from(predict.spanId, "hex")));
  expect(coglets, "coglet's span is below the origin's").toBe(true);

  const call = await waitFor("the webhook", TOLD_WITHIN_MS, () =>
    receiver.calls.find(({ text }) => text.includes(prediction.id) && text.includes('"succeeded"')),
  );
  expect(JSON.parse(call.text)).toMatchObject({ trace_id: TRACE });
  expect(call.headers["traceparent"]).toBe(`00-${TRACE}-${whole.spanId}-01`);

  for (const [name, text] of [
    ["edge.log", '"route":"/v1/models/:owner/:name/predictions"'],
    ["gpu-origin.log", '"attempt ended"'],
  ] as const) {
    const line = await waitFor(`a line of ${name}`, TOLD_WITHIN_MS, () =>
      logLines(name).find((each) => each.includes(TRACE) && each.includes(text)),
    );
    expect(JSON.parse(line)).toMatchObject({ trace_id: TRACE, prediction_id: prediction.id });
  }
  const everything = [...logLines("edge.log"), ...logLines("gpu-origin.log"), JSON.stringify(collector.spans)].join(
    "\n",
  );
  expect(everything.toLowerCase()).not.toContain("secret word");
});

test("a collector that is away costs nothing but spans, which are counted", async () => {
  collector.isBroken = true;
  const before = collector.spans.length;
  const prediction = await create(`00-${TRACE.replace("0a", "1b")}-${SPAN_OF_CALLER}-01`);
  expect(prediction.status).toBe("succeeded");
  await waitFor("dropped spans", TOLD_WITHIN_MS, async () => {
    const dropped = /cogway_origin_spans_total\{outcome="dropped"\} (\d+)/.exec(await originMetrics());
    return Number(dropped?.[1] ?? 0) > 0 ? true : null;
  });
  expect(collector.spans).toHaveLength(before);
});

test("an origin's metrics are on loopback, and not at the address that a tunnel makes public", async () => {
  const text = await originMetrics();
  expect(text).toMatch(/^cogway_origin_attempts_ended_total\{status="succeeded"\} [12]$/m);
  expect(text).toMatch(/^cogway_origin_instances\{state="ready"\} 1$/m);
  const answer = await fetch(`http://127.0.0.1:${system.ports.origin}/metrics`);
  expect(answer.status).toBe(404);
});

async function originMetrics(): Promise<string> {
  return (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
}

function logLines(name: string): string[] {
  return readFileSync(join(system.data, "logs", name), "utf8").split("\n");
}
