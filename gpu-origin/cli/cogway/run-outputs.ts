/** What a prediction gave, on this machine: texts as they are, JSON, and files that are fetched where they are wanted. */
import { createWriteStream, existsSync, mkdirSync, statSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { CliFault } from "./fault.ts";

/** Where an output that is a file lies on the platform: `/outputs/{prediction}/{n}/{name}`. */
const OUTPUT_PATH = /\/outputs\/[^/]+\/\d+\/([^/?#]+)/;

/** Every file in an output, at any depth, in its order. */
export function fileUrls(output: unknown): string[] {
  if (typeof output === "string") return OUTPUT_PATH.test(output) && URL.canParse(output) ? [output] : [];
  if (typeof output !== "object" || output === null) return [];
  return Object.values(output).flatMap(fileUrls);
}

/** As a person reads it: a text whole, files one a line, everything else as JSON. */
export function outputText(output: unknown, openapi: Record<string, unknown>, indent = 2): string {
  if (output === null || output === undefined) return "";
  if (typeof output === "string") return output;
  if (Array.isArray(output) && output.every((item) => typeof item === "string")) {
    if (isText(openapi)) return output.join("");
    if (fileUrls(output).length > 0) return output.join("\n");
  }
  return JSON.stringify(output, null, indent);
}

/** True where the elements of an output are pieces of one text. */
export function isText(openapi: Record<string, unknown>): boolean {
  const schemas = (openapi["components"] as { schemas?: Record<string, Record<string, unknown>> } | undefined)?.schemas;
  return schemas?.["Output"]?.["x-cog-array-display"] === "concatenate";
}

/** Where each file goes: one to the path itself, several into the folder that it names, by their own names. */
export function filePaths(urls: string[], target: string): string[] {
  const isFolder = target.endsWith("/") || (existsSync(target) && statSync(target).isDirectory());
  const names = urls.map((url) => basename(decodeURIComponent(OUTPUT_PATH.exec(url)?.[1] ?? "output")));
  if (!isFolder && urls.length === 1) return [target];
  const seen = new Map<string, number>();
  return names.map((name) => {
    const count = seen.get(name) ?? 0;
    seen.set(name, count + 1);
    const extension = extname(name);
    const unique = count === 0 ? name : `${name.slice(0, name.length - extension.length)}-${count}${extension}`;
    return join(target, unique);
  });
}

export async function download(url: string, path: string, signal: AbortSignal): Promise<number> {
  const answer = await fetch(url, { signal });
  if (!answer.ok || answer.body === null) {
    throw new CliFault(
      `The output at ${url} could not be fetched (${answer.status}); its data may have gone. Run it again.`,
    );
  }
  mkdirSync(dirname(path), { recursive: true });
  await pipeline(Readable.fromWeb(answer.body), createWriteStream(path));
  return statSync(path).size;
}
