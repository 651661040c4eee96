/** Counts of requests in this isolate's memory, for /metrics. Labels are the routes' own patterns and classes of status: callers cannot add any. */
import type { Histogram, Metric } from "../../schema/prometheus.ts";

/** Seconds. A create may wait for 60. */
const BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;
/** More than there are routes, methods and classes that answer. */
const SERIES_MAX = 2_000;

interface Latency {
  counts: number[];
  count: number;
  sum: number;
}

const requests = new Map<string, { labels: Record<string, string>; value: number }>();
const latencies = new Map<string, Latency>();

export function countRequest(method: string, route: string, status: number, ms: number): void {
  const labels = {
    method,
    route: route === "*" || route === "/*" ? "other" : route,
    status: `${Math.floor(status / 100)}xx`,
  };
  const key = Object.values(labels).join(" ");
  const row = requests.get(key) ?? { labels, value: 0 };
  if (requests.size < SERIES_MAX || requests.has(key)) requests.set(key, row);
  row.value += 1;
  const kind = kindOf(route);
  const latency = latencies.get(kind) ?? { counts: BOUNDS.map(() => 0), count: 0, sum: 0 };
  latencies.set(kind, latency);
  const seconds = ms / 1_000;
  for (const [i, bound] of BOUNDS.entries()) if (seconds <= bound) latency.counts[i] = (latency.counts[i] ?? 0) + 1;
  latency.count += 1;
  latency.sum += seconds;
}

function kindOf(route: string): string {
  const [, first = ""] = route.split("/");
  const kinds: Record<string, string> = {
    v1: "api",
    admin: "admin",
    origin: "origin",
    v2: "registry",
    outputs: "outputs",
  };
  return kinds[first] ?? "other";
}

/** Of this isolate since it began: a counter that falls has begun anew, which Prometheus' rate() knows. */
export function httpMetrics(): { metrics: Metric[]; histograms: Histogram[] } {
  return {
    metrics: [
      {
        name: "cogway_http_requests_total",
        type: "counter",
        help: "Requests by route and class of status, of the isolate that answers this.",
        samples: [...requests.values()],
      },
    ],
    histograms: [
      {
        name: "cogway_http_request_duration_seconds",
        help: "From the request to its answer, by kind of route, of the isolate that answers this.",
        bounds: BOUNDS,
        series: [...latencies].map(([kind, latency]) => ({ labels: { kind }, ...latency })),
      },
    ],
  };
}
