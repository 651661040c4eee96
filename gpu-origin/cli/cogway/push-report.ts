/** What a push tells at its end. Pure. */
import type { Build } from "../../../schema/client/index.ts";
import type { ModelName } from "./context.ts";
import { bytes, plural, quoted, type Style } from "./terminal.ts";
import type { Uploaded } from "./upload.ts";

/** Such as `1 of 4 layers new, 3.2 kB`. */
export function layersText({ layers, layers_sent, bytes_sent }: Uploaded): string {
  return layers_sent === 0
    ? `0 of ${plural(layers, "layer")} new`
    : `${layers_sent} of ${plural(layers, "layer")} new, ${bytes(bytes_sent)}`;
}

type DiffKind = "breaking" | "added" | "changed";

export function diffStyle(kind: DiffKind): Style {
  return { breaking: "red", added: "green", changed: "yellow" }[kind] as Style;
}

/** What changed for callers, one line each, breaking changes first. */
export function diffLines(diff: Build["schema_diff"]): { kind: DiffKind | "same"; text: string }[] {
  if (diff === null || diff.previous_version === null) return [];
  const lines = (["breaking", "added", "changed"] as const).flatMap((kind) =>
    diff[kind].map((text) => ({ kind, text })),
  );
  return lines.length > 0 ? lines : [{ kind: "same", text: "the schema is as it was" }];
}

/** A line to paste; the token stays where it is. */
export function curlLine(url: string, { owner, name }: ModelName, input: Record<string, unknown>): string {
  const body = quoted(JSON.stringify({ input }));
  const headers = `-H "Authorization: Bearer $COGWAY_TOKEN" -H "Content-Type: application/json" -H "Prefer: wait"`;
  return `curl -s ${headers} -d ${body} ${url}/v1/models/${owner}/${name}/predictions`;
}
