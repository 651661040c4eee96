/** What a version made by a training is, beside its weights. Pure. */
import { sha256Hex } from "./ids.ts";
import { WEIGHTS_INPUT, type WeightsRef } from "./weights.ts";

type Json = Record<string, unknown>;

/** Only the base can be trained: a fine-tune has none of these. */
const TRAINING_SCHEMAS = ["TrainingInput", "TrainingOutput", "TrainingRequest", "TrainingResponse"];

/** Equal weights on an equal base are the same version. */
export function fineTuneId(baseId: string, weights: WeightsRef): string {
  return sha256Hex(`${baseId}\n${weights.sha256}`);
}

/** Whether a model has a train function, as its schema says. */
export function isTrainable(openapiSchema: Json): boolean {
  return Object.hasOwn(memberOf(memberOf(openapiSchema, "components"), "schemas"), "TrainingInput");
}

/** Whether a model takes weights with each prediction, so that its fine-tunes need no instances of their own. */
export function takesWeights(openapiSchema: Json): boolean {
  return Object.hasOwn(memberOf(inputOf(openapiSchema), "properties"), WEIGHTS_INPUT);
}

/** The base's schema without its trainer, and without the input that the fine-tune's own weights fill. */
export function fineTuneSchema(base: Json): Json {
  const components = memberOf(base, "components");
  const schemas = memberOf(components, "schemas");
  const input = inputOf(base);
  const required = Array.isArray(input["required"]) ? input["required"].filter((name) => name !== WEIGHTS_INPUT) : [];
  const { required: _, ...rest } = input;
  return {
    ...base,
    paths: without(memberOf(base, "paths"), (path) => path.startsWith("/trainings")),
    components: {
      ...components,
      schemas: {
        ...without(schemas, (name) => TRAINING_SCHEMAS.includes(name)),
        Input: {
          ...rest,
          properties: without(memberOf(input, "properties"), (name) => name === WEIGHTS_INPUT),
          ...(required.length === 0 ? {} : { required }),
        },
      },
    },
  };
}

function inputOf(openapiSchema: Json): Json {
  return memberOf(memberOf(memberOf(openapiSchema, "components"), "schemas"), "Input");
}

function memberOf(value: Json, name: string): Json {
  const member = value[name];
  return typeof member === "object" && member !== null && !Array.isArray(member) ? (member as Json) : {};
}

function without(value: Json, isOut: (name: string) => boolean): Json {
  return Object.fromEntries(Object.entries(value).filter(([name]) => !isOut(name)));
}
