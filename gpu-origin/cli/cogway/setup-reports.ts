/** How the instances of a version started and ended, for its author. */
import type { z } from "zod";
import type { SetupLogsSchema } from "../../../schema/api/models.ts";
import type { Http } from "../../../schema/client/http.ts";
import { type ModelName, modelPath } from "./context.ts";

export type SetupReport = z.infer<typeof SetupLogsSchema>["results"][number];

/** Newest first; of the latest version where none is named. */
export async function setupReports(http: Http, model: ModelName, version?: string): Promise<SetupReport[]> {
  const { results } = await http.json<z.infer<typeof SetupLogsSchema>>("GET", `${modelPath(model)}/setup-logs`, {
    query: { version },
  });
  return results;
}

/** The last instance that never came up, with the reason in the model's own words; null where there is none. */
export async function failedSetup(http: Http, model: ModelName, version: string): Promise<SetupReport | null> {
  const reports = await setupReports(http, model, version);
  return reports.find(({ state, reason }) => state === "failed" && reason !== null) ?? null;
}
