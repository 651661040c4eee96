/** Decides how a model's output is shown, from the value itself and, where it helps, its schema. */
import { words } from "../format.ts";

type Json = Record<string, unknown>;
export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export type Media = "image" | "audio" | "video" | "other";
export interface Series {
  label: string | null;
  values: number[];
}
export interface Score {
  label: string;
  /** 0 to 1 */
  score: number;
}

export type Shape =
  | { kind: "nothing" }
  | { kind: "text"; text: string }
  | { kind: "texts"; texts: string[] }
  | { kind: "file"; url: string; media: Media }
  | { kind: "files"; urls: string[] }
  | { kind: "number"; value: number }
  | { kind: "boolean"; value: boolean }
  | { kind: "series"; series: Series[] }
  | { kind: "scores"; scores: Score[] }
  | { kind: "table"; columns: string[]; rows: Json[] }
  | { kind: "fields"; fields: [string, unknown][] }
  | { kind: "list"; items: unknown[] };

const EXTENSIONS: Record<string, Media> = {
  png: "image",
  jpg: "image",
  jpeg: "image",
  webp: "image",
  gif: "image",
  avif: "image",
  bmp: "image",
  svg: "image",
  wav: "audio",
  mp3: "audio",
  ogg: "audio",
  oga: "audio",
  opus: "audio",
  flac: "audio",
  m4a: "audio",
  aac: "audio",
  mp4: "video",
  webm: "video",
  mov: "video",
  m4v: "video",
  ogv: "video",
};

export function mediaOfType(type: string): Media {
  const kind = type.split("/")[0];
  return kind === "image" || kind === "audio" || kind === "video" ? kind : "other";
}

/** What a URL's file is, by its MIME type (data URIs) or its name's extension. */
export function mediaOf(url: string): Media {
  if (url.startsWith("data:")) return mediaOfType(url.slice("data:".length).toLowerCase());
  return EXTENSIONS[/\.([a-z0-9]+)$/i.exec(pathOf(url))?.[1]?.toLowerCase() ?? ""] ?? "other";
}

function pathOf(url: string): string {
  try {
    return decodeURIComponent(new URL(url).pathname);
  } catch {
    return url;
  }
}

/** The last part of a URL's path; null for data URIs. */
export function fileName(url: string): string | null {
  if (url.startsWith("data:")) return null;
  const name = pathOf(url).split("/").pop();
  return name === undefined || name === "" ? null : name;
}

/** A data URI, a file that the edge serves, or a URL that ends like a picture, sound or film. Other URLs are text with a link. */
export function isFileUrl(text: string): boolean {
  if (/\s/.test(text)) return false;
  if (/^data:[\w.+-]+\/[\w.+-]+[;,]/.test(text)) return true;
  if (!/^https?:\/\//.test(text)) return false;
  return pathOf(text).startsWith("/outputs/") || mediaOf(text) !== "other";
}

const isNumber = (value: unknown): value is number => typeof value === "number";
const isText = (value: unknown): value is string => typeof value === "string";
const isScalar = (value: unknown) => value === null || ["string", "number", "boolean"].includes(typeof value);
const isVector = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length >= 2 && value.every(isNumber);

/** More columns than this cannot be read as a table. */
const TABLE_COLUMNS_MAX = 8;
/** A list of more numbers does not fit a table's cell. */
const CELL_NUMBERS_MAX = 8;
const LABEL_KEYS = ["label", "class", "name", "category", "text"];
const SCORE_KEYS = ["score", "probability", "confidence", "prob"];

export function classify(value: unknown, schema: Json = {}): Shape {
  if (value === null || value === undefined) return { kind: "nothing" };
  if (typeof value === "boolean") return { kind: "boolean", value };
  if (isNumber(value)) return { kind: "number", value };
  if (isText(value)) {
    return isFileUrl(value) || schema["format"] === "uri"
      ? { kind: "file", url: value, media: mediaOf(value) }
      : { kind: "text", text: value };
  }
  if (Array.isArray(value)) return classifyList(value, schema);
  if (!isObject(value)) return { kind: "text", text: String(value) };
  const entries = Object.entries(value);
  if (entries.length >= 2 && entries.every(([, score]) => isNumber(score) && score >= 0 && score <= 1)) {
    return { kind: "scores", scores: byScore(entries.map(([label, score]) => ({ label, score: Number(score) }))) };
  }
  return { kind: "fields", fields: entries };
}

function classifyList(list: unknown[], schema: Json): Shape {
  if (list.length === 0) return { kind: "nothing" };
  if (list.every(isText)) {
    if (schema["x-cog-array-display"] === "concatenate") return { kind: "text", text: list.join("") };
    return list.every(isFileUrl) ? { kind: "files", urls: list } : { kind: "texts", texts: list };
  }
  if (isVector(list)) return { kind: "series", series: [{ label: null, values: list }] };
  if (list.every(isVector)) return { kind: "series", series: list.map((values) => ({ label: null, values })) };
  if (list.every(isObject)) {
    const series = list.map(labelledVector);
    if (series.every((one) => one !== null)) return { kind: "series", series };
    const scores = list.map(labelledScore);
    if (scores.every((one) => one !== null)) return { kind: "scores", scores: byScore(scores) };
    const columns = [...new Set(list.flatMap(Object.keys))];
    if (columns.length <= TABLE_COLUMNS_MAX && list.every((row) => Object.values(row).every(isCell)))
      return { kind: "table", columns, rows: list };
  }
  return { kind: "list", items: list };
}

/** A value that fits a table's cell: a scalar, or a few numbers such as a box. */
const isCell = (value: unknown) =>
  isScalar(value) || (Array.isArray(value) && value.length <= CELL_NUMBERS_MAX && value.every(isScalar));

/** `{text: "…", vector: [0.1, …]}` or `{index: 3, embedding: […]}`: one list of numbers, and what names it. */
function labelledVector(row: Json): Series | null {
  const entries = Object.entries(row);
  const vectors = entries.map(([, value]) => value).filter(isVector);
  const names = entries.filter(([, value]) => isScalar(value));
  const [vector] = vectors;
  if (vector === undefined || vectors.length !== 1 || names.length !== entries.length - 1 || names.length > 2)
    return null;
  // A few numbers among facts, such as a box, are one more fact.
  if (names.length > 1 && vector.length <= CELL_NUMBERS_MAX) return null;
  const text = names.map(([, value]) => value).find(isText);
  return {
    label: text ?? (names.map(([name, value]) => `${words(name)} ${value}`).join(", ") || null),
    values: vector,
  };
}

/** `{label: "cat", score: 0.92}` and nothing else. */
function labelledScore(row: Json): Score | null {
  if (Object.keys(row).length !== 2) return null;
  const label = LABEL_KEYS.map((key) => row[key]).find(isText);
  const score = SCORE_KEYS.map((key) => row[key]).find(isNumber);
  return label === undefined || score === undefined || score < 0 || score > 1 ? null : { label, score };
}

const byScore = (scores: Score[]) => scores.toSorted((a, b) => b.score - a.score);

/** Whether a live stream's `output` events can be shown as they come: texts or files, one after the other. */
export function isIterator(schema: Json): boolean {
  return schema["type"] === "array" && schema["x-cog-array-type"] === "iterator";
}
