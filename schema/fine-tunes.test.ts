import { describe, expect, it } from "vitest";
import { fineTuneId, fineTuneSchema, isTrainable, takesWeights } from "./fine-tunes.ts";
import { weightsOf, weightsRef, weightsSource } from "./weights.ts";

const properties = { text: { type: "string" }, replicate_weights: { type: "string", format: "uri" } };
const base = {
  openapi: "3.0.2",
  paths: { "/predictions": {}, "/trainings": {}, "/trainings/{training_id}/cancel": {} },
  components: {
    schemas: {
      Input: { type: "object", required: ["text", "replicate_weights"], properties },
      Output: { type: "string" },
      color: { enum: ["red"] },
      TrainingInput: { type: "object" },
      TrainingOutput: { type: "object" },
      TrainingRequest: {},
      TrainingResponse: {},
    },
  },
};
const file = (name: string) => ({
  $cogway_file: { n: 0, name, content_type: "application/zip", size_bytes: 3, sha256: "ab".repeat(32) },
});

describe("a fine-tune", () => {
  it("has its base's schema, without the trainer and the input that its weights fill", () => {
    const schema = fineTuneSchema(base);
    expect(schema).toEqual({
      openapi: "3.0.2",
      paths: { "/predictions": {} },
      components: {
        schemas: {
          Input: { type: "object", required: ["text"], properties: { text: { type: "string" } } },
          Output: { type: "string" },
          color: { enum: ["red"] },
        },
      },
    });
    expect([isTrainable(base), takesWeights(base)]).toEqual([true, true]);
    expect([isTrainable(schema), takesWeights(schema)]).toEqual([false, false]);
  });

  it("keeps no empty list of required inputs, which older JSON Schema forbids", () => {
    const bare = { components: { schemas: { Input: { required: ["replicate_weights"], properties } } } };
    expect(fineTuneSchema(bare)).toMatchObject({ components: { schemas: { Input: { properties: {} } } } });
    expect(JSON.stringify(fineTuneSchema(bare))).not.toContain("required");
  });

  it.each([{}, { components: null }, { components: { schemas: [] } }])("is judged on any document: %o", (document) => {
    expect([isTrainable(document), takesWeights(document)]).toEqual([false, false]);
  });

  it("is named by its base and its weights alone", () => {
    const one = fineTuneId("base", weightsRef(file("a.zip")));
    expect(one).toMatch(/^[0-9a-f]{64}$/);
    expect(fineTuneId("base", weightsRef(file("b.zip")))).toBe(one);
    expect(fineTuneId("other", weightsRef(file("a.zip")))).not.toBe(one);
  });
});

describe("weights", () => {
  it("are the file that a trainer returned, or the member of that name", () => {
    const weights = file("a.zip");
    expect(weightsOf(weights)).toEqual(weights);
    expect(weightsOf({ weights, note: "x" })).toEqual(weights);
    for (const none of [null, "text", { weights: "https://x" }, [weights], { other: weights }]) {
      expect(weightsOf(none)).toBeNull();
    }
  });

  it("lie under their digest, with a name that is one plain segment of a path", () => {
    const ref = weightsRef(file("my wëights#1.zip"));
    expect(ref).toEqual({ key: `weights/${"ab".repeat(32)}/my-w-ights-1.zip`, sha256: "ab".repeat(32), size_bytes: 3 });
    expect(weightsSource(ref).path).toBe(`/origin/v1/${ref.key}`);
  });
});
