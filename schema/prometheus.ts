/** Prometheus' text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). Pure. */

export const PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

export interface Sample {
  labels?: Record<string, string>;
  value: number;
}

export interface Metric {
  /** ends in `_total` for a counter, and in its unit: `_seconds`, `_bytes` */
  name: string;
  type: "counter" | "gauge";
  help: string;
  samples: Sample[];
}

/** Counts of durations below each bound (seconds, rising), all of them, and their sum. */
export interface Histogram {
  name: string;
  help: string;
  bounds: readonly number[];
  series: { labels: Record<string, string>; counts: number[]; count: number; sum: number }[];
}

export function prometheusText(metrics: readonly Metric[], histograms: readonly Histogram[] = []): string {
  const plain = metrics.map(({ name, type, help, samples }) =>
    block(
      name,
      type,
      help,
      samples.map(({ labels = {}, value }) => line(name, labels, value)),
    ),
  );
  return [...plain, ...histograms.map(histogramText)].join("");
}

function histogramText({ name, help, bounds, series }: Histogram): string {
  const lines = series.flatMap(({ labels, counts, count, sum }) => [
    ...bounds.map((le, i) => line(`${name}_bucket`, { ...labels, le: String(le) }, counts[i] ?? 0)),
    line(`${name}_bucket`, { ...labels, le: "+Inf" }, count),
    line(`${name}_sum`, labels, sum),
    line(`${name}_count`, labels, count),
  ]);
  return block(name, "histogram", help, lines);
}

function block(name: string, type: string, help: string, lines: string[]): string {
  const escaped = help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
  return [`# HELP ${name} ${escaped}`, `# TYPE ${name} ${type}`, ...lines, ""].join("\n");
}

function line(name: string, labels: Record<string, string>, value: number): string {
  const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
  return `${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${value}`;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
