/** What an origin tells a collector, what it passes on of its models, and what that may cost: nothing where the collector is away. */

import { mkdtempSync, rmSync } from "node:fs";
import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { InstanceFiles, MODEL_EXPORTS_READ_MAX } from "./instance-files.ts";
import { createLog } from "./log.ts";
import { originMetrics } from "./metrics.ts";
import { tracingEnv, writesSpans } from "./model-tracing.ts";
import { OutputSpool } from "./output-spool.ts";
import type { PreparedVersion } from "./prepared-version.ts";
import { MODEL_EXPORT_BYTES_MAX, Telemetry } from "./telemetry.ts";

/** Of an answer on a machine that does other things as well. */
const WAIT = { timeout: 10_000 };

const received: { type: string; body: Buffer }[] = [];
let server: Server;
let url: string;
let status: number;
let folder: string;
beforeEach(async () => {
  received.length = 0;
  status = 200;
  folder = mkdtempSync(join(tmpdir(), "cogway-telemetry-"));
  server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    received.push({ type: request.headers["content-type"] ?? "", body: Buffer.concat(chunks) });
    response.writeHead(status).end();
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`;
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

const telemetry = (of: string | null) => new Telemetry({ url: of, headers: "" }, "inc", createLog("silent"));
const span = {
  trace_id: "0af7651916cd43dd8448eb211c80319c",
  span_id: "b7ad6b7169203331",
  parent_span_id: null,
  name: "attempt",
  kind: "internal",
  start_ms: 1,
  end_ms: 2,
  attributes: {},
  error: null,
} as const;

describe("an origin's spans", () => {
  it("go together, and are dropped and counted where the collector does not take them", async () => {
    const sender = telemetry(url);
    for (let n = 0; n < 3; n++) sender.record(span);
    await sender.flush();
    expect(received).toHaveLength(1);
    expect(received[0]?.body.toString().match(/"traceId"/g)).toHaveLength(3);
    status = 500;
    sender.record(span);
    await sender.flush();
    // Left alone for a while.
    sender.record(span);
    await sender.flush();
    expect(received).toHaveLength(2);
    expect(sender.counts().spans).toEqual({ exported: 3, dropped: 2, waiting: 0 });
  });

  it("are told of once for each outage", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    try {
      const log = createLog("silent");
      const warn = vi.spyOn(log, "warn");
      const sender = new Telemetry({ url, headers: "" }, "inc", log);
      // Two outages of two exports each, longer apart than it pauses.
      for (status of [500, 500, 200, 500, 500]) {
        sender.record(span);
        await sender.flush();
        vi.setSystemTime(Date.now() + 60_000);
      }
      expect(received).toHaveLength(5);
      expect(warn).toHaveBeenCalledTimes(2);
    } finally {
      vi.useRealTimers();
    }
  });

  it("go on where a model sends what the collector does not take, and stop with it where the collector is away", async () => {
    const sender = telemetry(url);
    const taken = async (answered: number): Promise<boolean> => {
      status = answered;
      return sender.relay(Buffer.from("none"), "application/x-protobuf", undefined);
    };
    expect(await taken(400)).toBe(false);
    expect(await taken(200)).toBe(true);
    expect(await taken(503)).toBe(false);
    expect(await taken(200)).toBe(false);
    expect(received).toHaveLength(3);
  });

  it("are not kept where nobody wants them", () => {
    const sender = telemetry(null);
    sender.record(span);
    expect(sender.counts().spans).toEqual({ exported: 0, dropped: 0, waiting: 0 });
  });
});

describe("a model's own spans", () => {
  it("pass through its instance's file server as they are, up to a bound, and with its secret alone", async () => {
    const sender = telemetry(url);
    const files = new InstanceFiles(new OutputSpool(folder), { traces: sender });
    await files.listen("127.0.0.1", 0);
    try {
      const post = (to: string, bytes: number) =>
        fetch(to, {
          method: "POST",
          headers: { "content-type": "application/x-protobuf" },
          body: new Uint8Array(bytes).fill(7),
        }).catch(() => null);
      const to = files.tracesUrl ?? "";
      expect((await post(to, 100))?.status).toBe(200);
      expect(received).toEqual([{ type: "application/x-protobuf", body: Buffer.alloc(100, 7) }]);
      expect((await post(to, MODEL_EXPORT_BYTES_MAX + 1))?.status ?? 413).toBe(413);
      expect((await post(new URL("/v1/traces", to).href, 100))?.status).toBe(404);
      status = 503;
      // Final, or the exporter would keep what nobody takes.
      expect((await post(to, 100))?.status).toBe(400);
      expect(sender.counts().model_exports).toEqual({ taken: 1, dropped: 1 });
    } finally {
      await files.stop();
    }
  });

  it("are read a few at a time, whatever a model sends at once", async () => {
    const files = new InstanceFiles(new OutputSpool(folder), { traces: telemetry(url) });
    await files.listen("127.0.0.1", 0);
    const answers: number[] = [];
    const exports = Array.from({ length: MODEL_EXPORTS_READ_MAX + 2 }, () => {
      const sent = request(files.tracesUrl ?? "", { method: "POST", headers: { "content-length": 2 } }, (answer) => {
        answer.resume();
        answers.push(answer.statusCode ?? 0);
      });
      sent.on("error", () => {});
      sent.write("x");
      return sent;
    });
    try {
      await vi.waitFor(() => expect(answers).toEqual([400, 400]), WAIT);
      for (const sent of exports) sent.end("x");
      await vi.waitFor(() => expect(answers).toEqual([400, 400, ...Array(MODEL_EXPORTS_READ_MAX).fill(200)]), WAIT);
    } finally {
      await files.stop();
    }
  });

  it("have no address where nobody wants them", async () => {
    const files = new InstanceFiles(new OutputSpool(folder));
    await files.listen("127.0.0.1", 0);
    const answer = await fetch(files.uploadUrl.replace("/outputs", "/v1/traces"), { method: "POST", body: "x" });
    await files.stop();
    expect([files.tracesUrl, answer.status]).toEqual([null, 404]);
  });

  it.each<[string, { requirements: string; lock?: string }, boolean]>([
    ["cog's extra", { requirements: "numpy\ncog[tracing]==0.23.1" }, true],
    ["the packages", { requirements: "opentelemetry-sdk\nopentelemetry-exporter-otlp-proto-http==1.44" }, true],
    [
      "the packages, as they were resolved",
      { requirements: "x", lock: "opentelemetry-exporter-otlp==1.44\nopentelemetry-sdk==1.44" },
      true,
    ],
    ["no exporter", { requirements: "opentelemetry-sdk\nopentelemetry-exporter-otlp-proto-common" }, false],
    ["nothing of it", { requirements: "numpy" }, false],
  ])("are turned on with %s", (_what, given, writes) => {
    const environment = { python_version: null, run: [], ...given };
    expect(writesSpans({ environment })).toBe(writes);
    const version = { environment, name: "m" } as unknown as PreparedVersion;
    expect("COG_TRACE_CONFIGURED" in tracingEnv(version, "http://x")).toBe(writes);
    expect(tracingEnv(version, null)).toEqual({});
  });
});

describe("an origin's metrics", () => {
  it("count instances by state, and slots of those that live", () => {
    const instance = (state: "ready" | "stopped", slots_busy: number) => ({
      state,
      slots: 4,
      slots_busy,
      memory_bytes: 10,
    });
    const text = originMetrics({
      attempts: { ended: { succeeded: 2, failed: 1, canceled: 0 }, running: 3 },
      instances: [instance("ready", 3), instance("ready", 0), instance("stopped", 1)],
      journal: { events_bytes: 5 },
      push: { batches: 6, failures: 7 },
      telemetry: { spans: { exported: 8, dropped: 9, waiting: 0 }, model_exports: { taken: 0, dropped: 0 } },
      blobs: { bytes: 11, files: 12 },
      builds: { running: 0, ended: { built: 1 } },
    });
    for (const line of [
      'cogway_origin_attempts_ended_total{status="succeeded"} 2',
      'cogway_origin_instances{state="ready"} 2',
      'cogway_origin_instances{state="stopped"} 1',
      'cogway_origin_slots{state="busy"} 3',
      'cogway_origin_slots{state="free"} 5',
      "cogway_origin_instances_memory_bytes 20",
      "cogway_origin_journal_events_bytes 5",
      "cogway_origin_push_failures_total 7",
    ]) {
      expect(text.split("\n")).toContain(line);
    }
  });
});
