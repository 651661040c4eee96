import { expect, it } from "vitest";
import type { Collection, Model } from "./api.ts";
import { groupModels } from "./group-models.ts";

const model = (name: string, run_count = 0, visibility = "public") =>
  ({ owner: "a", name, run_count, visibility }) as Model;
const collection = (slug: string, models: Model[]): Collection => ({
  name: slug,
  slug,
  description: "",
  full_description: null,
  models,
});

it("shows a model in each of its collections, as it is now, and what is in none after them", () => {
  const { groups, privates, rest } = groupModels(
    [model("x", 5), model("y"), model("z", 0, "private")],
    [collection("one", [model("x")]), collection("two", [model("x"), model("gone")]), collection("none", [])],
  );
  expect(groups.map((group) => [group.collection.slug, group.models.map((one) => [one.name, one.run_count])])).toEqual([
    ["one", [["x", 5]]],
    [
      "two",
      [
        ["x", 5],
        ["gone", 0],
      ],
    ],
  ]);
  expect(rest.map((one) => one.name)).toEqual(["y"]);
  expect(privates.map((one) => one.name)).toEqual(["z"]);
});
