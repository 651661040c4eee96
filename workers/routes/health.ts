/** Whether predictions can run. */
import { createRoute, z } from "@hono/zod-openapi";
import { fleetStub } from "../../durable-objects/stubs.ts";
import { problemResponses } from "../../schema/api/common.ts";
import { AppError } from "../../schema/problems.ts";
import { hasRunnableModel } from "../storage/models.ts";
import { json, newRouter } from "./router.ts";

export const health = newRouter();

health.openapi(
  createRoute({
    method: "get",
    path: "/healthz",
    tags: ["operating"],
    summary: "Tell whether predictions can run",
    security: [],
    responses: {
      200: {
        description: "They can",
        content: json(z.object({ status: z.literal("ok"), origins_alive: z.number().int() })),
      },
      ...problemResponses,
    },
  }),
  async (c) => {
    const [{ origins_alive }, isRunnable] = await Promise.all([fleetStub(c.env).health(), hasRunnableModel(c.env.DB)]);
    if (origins_alive === 0) throw new AppError("origin.unavailable", "No origin is connected.");
    if (!isRunnable) throw new AppError("model.preparing", "No model is ready yet.");
    return c.json({ status: "ok" as const, origins_alive }, 200);
  },
);
