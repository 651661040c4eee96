/** /metrics of an origin, for a Prometheus on its host: a port of its own on loopback. No label is made of what callers or models say. */
import { createAdaptorServer } from "@hono/node-server";
import { Hono } from "hono";
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import { type Metric, PROMETHEUS_TYPE, prometheusText } from "../schema/prometheus.ts";
import type { Telemetry } from "./telemetry.ts";

export interface OriginFigures {
  attempts: { ended: Record<string, number>; running: number };
  instances: Pick<InstanceStatus, "state" | "slots" | "slots_busy" | "memory_bytes">[];
  /** not acknowledged by the edge */
  journal: { events_bytes: number };
  push: { batches: number; failures: number };
  telemetry: ReturnType<Telemetry["counts"]>;
  blobs: { bytes: number; files: number };
  builds: { running: number; ended: Record<string, number> };
}

const INSTANCE_STATES: InstanceStatus["state"][] = [
  "boot",
  "setup",
  "ready",
  "draining",
  "paused",
  "failed",
  "stopped",
];

const gauge = single("gauge");
const counter = single("counter");

export function originMetrics(figures: OriginFigures): string {
  const { attempts, instances, journal, push, telemetry, blobs, builds } = figures;
  const byLabel = (label: string, counts: Record<string, number>) =>
    Object.entries(counts).map(([name, value]) => ({ labels: { [label]: name }, value }));
  const live = instances.filter(({ state }) => state !== "stopped" && state !== "failed");
  const sum = (of: (instance: OriginFigures["instances"][number]) => number): number =>
    live.reduce((total, instance) => total + of(instance), 0);
  return prometheusText([
    {
      name: "cogway_origin_attempts_ended_total",
      type: "counter",
      help: "Attempts that ended here since the process started.",
      samples: byLabel("status", attempts.ended),
    },
    gauge("cogway_origin_attempts_running", "Attempts that run or wait for their slot.", attempts.running),
    {
      name: "cogway_origin_instances",
      type: "gauge",
      help: "Instances by state.",
      samples: INSTANCE_STATES.map((state) => ({
        labels: { state },
        value: instances.filter((instance) => instance.state === state).length,
      })),
    },
    {
      name: "cogway_origin_slots",
      type: "gauge",
      help: "Slots of live instances.",
      samples: [
        { labels: { state: "busy" }, value: sum(({ slots_busy }) => slots_busy) },
        { labels: { state: "free" }, value: sum(({ slots, slots_busy }) => Math.max(0, slots - slots_busy)) },
      ],
    },
    gauge(
      "cogway_origin_instances_memory_bytes",
      "Memory of live instances, as booked or last measured.",
      sum(({ memory_bytes }) => memory_bytes),
    ),
    gauge("cogway_origin_journal_events_bytes", "Events that the edge has not acknowledged.", journal.events_bytes),
    counter("cogway_origin_push_batches_total", "Batches of events that the edge took.", push.batches),
    counter(
      "cogway_origin_push_failures_total",
      "Batches that it did not take, and that are sent again.",
      push.failures,
    ),
    gauge("cogway_origin_blob_cache_bytes", "Large files of versions and fine-tunes on this host.", blobs.bytes),
    gauge("cogway_origin_blob_cache_files", "How many of them.", blobs.files),
    gauge("cogway_origin_builds_running", "Builds that run here.", builds.running),
    {
      name: "cogway_origin_builds_ended_total",
      type: "counter",
      help: "Builds that ended here since the process started.",
      samples: byLabel("status", builds.ended),
    },
    {
      name: "cogway_origin_spans_total",
      type: "counter",
      help: "Spans of this origin, by what became of them.",
      samples: [
        { labels: { outcome: "exported" }, value: telemetry.spans.exported },
        { labels: { outcome: "dropped" }, value: telemetry.spans.dropped },
      ],
    },
    {
      name: "cogway_origin_model_span_exports_total",
      type: "counter",
      help: "Exports of models' own spans, by what became of them.",
      samples: byLabel("outcome", telemetry.model_exports),
    },
  ]);
}

/** A figure without labels. */
function single(type: Metric["type"]) {
  return (name: string, help: string, value: number): Metric => ({ name, type, help, samples: [{ value }] });
}

/** Rejects with a clear text when the port is taken. */
export async function serveMetrics(port: number, text: () => string): Promise<{ close: () => Promise<void> }> {
  const app = new Hono();
  app.get("/metrics", (c) => c.body(text(), 200, { "content-type": PROMETHEUS_TYPE }));
  const server = createAdaptorServer({ fetch: app.fetch });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      reject(error.code === "EADDRINUSE" ? new Error(`Port ${port} (COGWAY_METRICS_PORT) is taken.`) : error);
    });
    server.listen(port, "127.0.0.1", resolve);
  });
  return { close: () => new Promise((resolve) => server.close(() => resolve())) };
}
