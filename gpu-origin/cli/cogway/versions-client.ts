/** Versions of a model, found by the beginning of their id. */
import type { z } from "zod";
import type { ModelSchema, VersionSchema } from "../../../schema/api/models.ts";
import type { Http } from "../../../schema/client/http.ts";
import { type ModelName, modelPath } from "./context.ts";
import { CliFault } from "./fault.ts";

export type Version = z.infer<typeof VersionSchema>;
export type Model = z.infer<typeof ModelSchema>;

const VERSION_ID = /^[0-9a-f]{64}$/;
const VERSION_START = /^[0-9a-f]{6,63}$/;

export function getModel(http: Http, model: ModelName): Promise<Model> {
  return http.json("GET", modelPath(model));
}

/** Newest first. */
export function listVersions(http: Http, model: ModelName): AsyncGenerator<Version> {
  return http.pages(`${modelPath(model)}/versions`);
}

/** By its id, or a beginning that only one version has. */
export async function findVersion(http: Http, model: ModelName, id: string): Promise<Version> {
  if (VERSION_ID.test(id)) return http.json("GET", `${modelPath(model)}/versions/${id}`);
  const name = `${model.owner}/${model.name}`;
  if (!VERSION_START.test(id)) {
    throw new CliFault(
      `"${id}" is no version: give its id, or at least its first 6 characters. cogway versions ${name} lists them.`,
    );
  }
  const found: Version[] = [];
  for await (const version of listVersions(http, model)) if (version.id.startsWith(id)) found.push(version);
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  throw new CliFault(
    only === undefined
      ? `${name} has no version ${id}…. cogway versions ${name} lists them.`
      : `${found.length} versions of ${name} begin with ${id}; give more of the id.`,
  );
}
