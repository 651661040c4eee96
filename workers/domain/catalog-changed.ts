/** What else must know when models of the catalog were made, changed or deleted. Called behind every such write; it never fails its caller. */
import { canaryStub, searchStub } from "../../durable-objects/stubs.ts";
import type { Edge } from "../env.ts";
import { EMBEDDINGS_MODEL, tellEmbedder } from "./search-models.ts";

/** `models` are owner/name; none where only collections changed. */
export function catalogChanged(edge: Edge, models: string[]): void {
  if (models.length > 0) {
    edge.later(
      canaryStub(edge.env)
        .changed(models)
        .catch((error: unknown) => {
          // Its daily walk finds it.
          console.warn(
            JSON.stringify({ level: "warn", message: "canaries were not told", models, error: String(error) }),
          );
        }),
    );
  }
  edge.later(
    tellSearch(edge, models).catch((error: unknown) => {
      // The index finds it by itself within a minute.
      console.warn(JSON.stringify({ level: "warn", message: "search was not told", models, error: String(error) }));
    }),
  );
}

async function tellSearch(edge: Edge, models: string[]): Promise<void> {
  await searchStub(edge.env).changed(models);
  if (models.includes(EMBEDDINGS_MODEL)) await tellEmbedder(edge);
}
