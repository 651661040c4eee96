/** How a folder with a `cog.yaml` becomes a version of a model, as lines for a shell. */
export function pushLines(origin: string, model: string): string {
  return [
    `export COGWAY_URL=${origin}`,
    "export COGWAY_TOKEN='<your token>'",
    `npx cogway push ./my-model ${model}`,
  ].join("\n");
}
