/** What /metrics tells of the whole platform: figures of the objects, asked for at each scrape. */
import type { FleetFigures, OriginListing } from "../../durable-objects/fleet-contract.ts";
import type { PredictionFigures } from "../../durable-objects/prediction-counts.ts";
import { fleetStub, predictionStub } from "../../durable-objects/stubs.ts";
import { spanCounts } from "../../durable-objects/telemetry.ts";
import { PREDICTION_POOL } from "../../schema/ids.ts";
import { PREDICTION_STATES, TerminalPredictionStates } from "../../schema/prediction-document.ts";
import type { Metric, Sample } from "../../schema/prometheus.ts";
import type { Edge } from "../env.ts";

const ORIGIN_STATES: OriginListing["state"][] = ["ready", "draining", "drained", "lost"];
const INSTANCE_STATES = ["boot", "setup", "ready", "draining", "paused", "unknown"] as const;

/** Asks each object of the pool once, and the fleet. Objects of a larger pool of before are asked too while they may hold something: all that there can be. */
export async function platformMetrics(edge: Edge): Promise<Metric[]> {
  const [figures, origins] = await Promise.all([
    Promise.all(PREDICTION_POOL.map((name) => predictionStub(edge.env, name).figures())),
    fleetStub(edge.env).figures(),
  ]);
  return [...predictionMetrics(figures), ...originMetrics(origins), spanMetric()];
}

export function predictionMetrics(figures: PredictionFigures[]): Metric[] {
  const sum = (of: (each: PredictionFigures) => number): number => figures.reduce((total, each) => total + of(each), 0);
  const one = (of: (each: PredictionFigures) => number): Sample[] => [{ value: sum(of) }];
  const live = PREDICTION_STATES.filter((state) => !(TerminalPredictionStates as readonly string[]).includes(state));
  return [
    {
      name: "cogway_predictions_created_total",
      type: "counter",
      help: "Predictions and trainings that were accepted. Equals those that ended and those in flight, at every look.",
      samples: one(({ counts }) => counts.created),
    },
    {
      name: "cogway_predictions_ended_total",
      type: "counter",
      help: "Predictions and trainings by how they ended.",
      samples: TerminalPredictionStates.map((status) => ({
        labels: { status },
        value: sum(({ counts }) => counts[status]),
      })),
    },
    {
      name: "cogway_predictions_in_flight",
      type: "gauge",
      help: "Predictions and trainings that have not ended, by state; queued is the length of all queues.",
      samples: live.map((state) => ({ labels: { state }, value: sum(({ in_flight }) => in_flight[state] ?? 0) })),
    },
    {
      name: "cogway_predictions_platform_failures_total",
      type: "counter",
      help: "Those of the failed ones that failed by a fault of the platform.",
      samples: one(({ counts }) => counts.platform_failures),
    },
    {
      name: "cogway_charged_micros_total",
      type: "counter",
      help: "Micro-dollars that the ledgers book: for ended predictions, and for the time of instances that are paid by the hour.",
      samples: one(({ counts, online_micros }) => counts.charged_micros + online_micros),
    },
    {
      name: "cogway_outbox_rows",
      type: "gauge",
      help: "What predictions owe to accounts, deployments and batches and these have not taken yet.",
      samples: one(({ outbox }) => outbox),
    },
    {
      name: "cogway_webhook_calls_total",
      type: "counter",
      help: "Calls of receivers, by whether they took it.",
      samples: [
        { labels: { outcome: "taken" }, value: sum(({ counts }) => counts.webhook_calls_taken) },
        { labels: { outcome: "failed" }, value: sum(({ counts }) => counts.webhook_calls_failed) },
      ],
    },
    {
      name: "cogway_webhooks_waiting",
      type: "gauge",
      help: "Webhooks that are to be sent, or sent again.",
      samples: one(({ webhooks_waiting }) => webhooks_waiting),
    },
  ];
}

function originMetrics({ origins, instances }: FleetFigures): Metric[] {
  return [
    {
      name: "cogway_origins",
      type: "gauge",
      help: "Origins by state.",
      samples: ORIGIN_STATES.map((state) => ({
        labels: { state },
        value: origins[state] ?? 0,
      })),
    },
    {
      name: "cogway_instances",
      type: "gauge",
      help: "Placed instances by the state that their origin told last.",
      samples: INSTANCE_STATES.map((state) => ({
        labels: { state },
        value: instances[state] ?? 0,
      })),
    },
  ];
}

function spanMetric(): Metric {
  const { exported, dropped } = spanCounts();
  return {
    name: "cogway_spans_total",
    type: "counter",
    help: "Spans of the isolate that answers this, by what became of them.",
    samples: [
      { labels: { outcome: "exported" }, value: exported },
      { labels: { outcome: "dropped" }, value: dropped },
    ],
  };
}
