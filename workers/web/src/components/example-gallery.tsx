/** What a model made of several inputs: each opens with its input in the form. */
import type { Model, Prediction } from "../api.ts";
import { component } from "../form/input-schema.ts";
import { classify } from "../output/classify.ts";
import { examplePath } from "../route.ts";
import { Link } from "../router.tsx";
import { ShapePreview } from "./model-card.tsx";

const INPUT_CHARACTERS = 90;

export function ExampleGallery({
  model,
  examples,
  shown,
}: {
  model: Model;
  examples: Prediction[];
  /** id of the one that is in the form; the default one otherwise */
  shown: string | null;
}) {
  const ended = examples.filter((example) => example.status === "succeeded" && !example.data_removed);
  if (ended.length < 2) return null;
  const schema = component(model.latest_version?.openapi_schema ?? {}, "Output");
  return (
    <section className="examples" aria-labelledby="examples">
      <h2 id="examples">Examples</h2>
      <ul className="example-grid">
        {ended.map((example) => (
          <li key={example.id} className="model-card">
            <Link
              href={examplePath(model, example.id)}
              {...(example.id === (shown ?? model.default_example?.id) ? { "aria-current": "true" } : {})}
            >
              <div className="model-card-preview">
                <ShapePreview shape={classify(example.output, schema)} />
              </div>
              <p className="example-input">{inputInWords(example.input)}</p>
            </Link>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** The first text that a person wrote, else the inputs by name. */
export function inputInWords(input: Record<string, unknown>): string {
  const isText = (value: unknown): value is string => typeof value === "string" && !/^(?:data|https?):/.test(value);
  const text = Object.values(input).find((value) => isText(value) && value.trim().includes(" "));
  const said =
    typeof text === "string"
      ? text.trim()
      : Object.entries(input)
          .filter(([, value]) => isText(value) || typeof value === "number" || typeof value === "boolean")
          .map(([name, value]) => `${name}: ${String(value)}`)
          .join(", ");
  return said.length > INPUT_CHARACTERS ? `${said.slice(0, INPUT_CHARACTERS)}…` : said;
}
