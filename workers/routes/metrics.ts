/** Prometheus' metrics of the platform. */
import { createRoute, z } from "@hono/zod-openapi";
import { bearer, problemResponses } from "../../schema/api/common.ts";
import { PROMETHEUS_TYPE, prometheusText } from "../../schema/prometheus.ts";
import { platformMetrics } from "../domain/platform-metrics.ts";
import { edgeOf } from "../env.ts";
import { httpMetrics } from "../middleware/http-metrics.ts";
import { allow, newRouter } from "./router.ts";

export const metrics = newRouter();

metrics.openapi(
  createRoute({
    method: "get",
    path: "/metrics",
    tags: ["operating"],
    summary: "Metrics of the platform, in Prometheus' text format",
    description: "Give Prometheus a token of the operator that has the scope `metrics:read` and no other.",
    security: bearer,
    middleware: allow("metrics:read"),
    responses: {
      200: { description: "The metrics", content: { "text/plain": { schema: z.string() } } },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { metrics: http, histograms } = httpMetrics();
    const text = prometheusText([...(await platformMetrics(edgeOf(c))), ...http], histograms);
    return c.text(text, 200, { "content-type": PROMETHEUS_TYPE });
  },
);
