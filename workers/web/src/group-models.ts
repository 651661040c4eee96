/** The models as the start page shows them: by collection, then those that are in none. */
import type { Collection, Model } from "./api.ts";

export interface ModelGroups {
  groups: { collection: Collection; models: Model[] }[];
  /** in no collection: those that not everybody sees, and the others */
  privates: Model[];
  rest: Model[];
}

export const fullName = (model: { owner: string; name: string }) => `${model.owner}/${model.name}`;

/** A model may be in several collections, and stands in each. `models` are read more often than the collections, so theirs is the newer state. */
export function groupModels(models: Model[], collections: Collection[]): ModelGroups {
  const newest = new Map(models.map((model) => [fullName(model), model]));
  const groups = collections
    .map((collection) => ({
      collection,
      models: collection.models.map((model) => newest.get(fullName(model)) ?? model),
    }))
    .filter((group) => group.models.length > 0);
  const grouped = new Set(groups.flatMap((group) => group.models.map(fullName)));
  const others = models.filter((model) => !grouped.has(fullName(model)));
  return {
    groups,
    privates: others.filter((model) => model.visibility === "private"),
    rest: others.filter((model) => model.visibility === "public"),
  };
}
