/** What makes a model's own spans join the trace: coglet's switches, for models that have OpenTelemetry installed. */
import type { PreparedVersion } from "./prepared-version.ts";

/** Cog's extra, or what it stands for. Without these packages coglet's worker does not start with tracing on (measured with 0.23.1). */
const EXTRA = /^\s*cog\s*\[[^\]]*\btracing\b[^\]]*\]/m;
const PACKAGES = [/^\s*opentelemetry-sdk\b/m, /^\s*opentelemetry-exporter-otlp(?:-proto-http)?\s*(?:[=<>!~;@].*)?$/m];

/** Whether a model writes spans of its own where it is told where to. */
export function writesSpans({ environment }: Pick<PreparedVersion, "environment">): boolean {
  const installed = `${environment.requirements}\n${environment.lock ?? ""}`;
  return EXTRA.test(installed) || PACKAGES.every((pattern) => pattern.test(installed));
}

/** The environment that turns them on; nothing where `tracesUrl` is null, or the model has none. A sampled request is traced, no other (coglet's own default). */
export function tracingEnv(version: PreparedVersion, tracesUrl: string | null): Record<string, string> {
  if (tracesUrl === null || !writesSpans(version)) return {};
  return {
    COG_TRACE_CONFIGURED: "1",
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: tracesUrl,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "http/protobuf",
    OTEL_SERVICE_NAME: version.name,
    // Spans of a short prediction come while its trace is looked at. Milliseconds.
    OTEL_BSP_SCHEDULE_DELAY: "1000",
  };
}
