/**
 * What a prediction made, in units that have prices: pictures among its output, and tokens and seconds that its model counts as metrics. Pure. A model's
 * numbers are bounded, whatever it says.
 */
import type { Unit } from "./pricing.ts";
import { asFileRef } from "./render-prediction.ts";

export type MadeUnits = Partial<Record<Unit, number>>;
/** A part of a progress; empty where nothing changed. */
type Made = { made?: MadeUnits };

/** No prediction makes more of anything: a model that says so is wrong. */
const UNITS_MAX = 1_000_000_000;
/** Nesting of an output that is looked through for pictures. */
const DEPTH_MAX = 8;

/** Metrics of models, by the names that Replicate's have. */
const METRICS: Record<string, Unit> = {
  input_token_count: "input_token",
  output_token_count: "output_token",
  video_output_duration_seconds: "video_second",
  audio_output_duration_seconds: "audio_second",
};

/** An output came: one more, or (`set`) the whole of it. */
export function countOutput(made: MadeUnits | undefined, mode: "append" | "set", value: unknown): Made {
  const images = picturesIn(value, 0) + (mode === "append" ? (made?.image ?? 0) : 0);
  if (images === (made?.image ?? 0)) return {};
  return { made: { ...made, image: Math.min(images, UNITS_MAX) } };
}

function picturesIn(value: unknown, depth: number): number {
  if (typeof value !== "object" || value === null || depth > DEPTH_MAX) return 0;
  const file = asFileRef(value);
  if (file !== null) return file.$cogway_file.content_type.startsWith("image/") ? 1 : 0;
  return Object.values(value).reduce<number>((sum, member) => sum + picturesIn(member, depth + 1), 0);
}

/** A metric came while it runs. */
export function countMetric(
  made: MadeUnits | undefined,
  { name, value, mode }: { name: string; value: unknown; mode: "replace" | "increment" | "append" },
): Made {
  const unit = unitOfMetric(name);
  const count = countOf(value);
  if (unit === null || count === null || mode === "append") return {};
  const before = mode === "increment" ? (made?.[unit] ?? 0) : 0;
  return { made: { ...made, [unit]: Math.min(before + count, UNITS_MAX) } };
}

/** All metrics at the end: those that are there count. */
export function countMetrics(made: MadeUnits | undefined, metrics: Record<string, unknown>): Made {
  let so: Made = {};
  for (const name of Object.keys(METRICS)) {
    const value = Object.hasOwn(metrics, name) ? metrics[name] : undefined;
    const next = countMetric(so.made ?? made, { name, value, mode: "replace" });
    if (next.made !== undefined) so = next;
  }
  return so;
}

/** Another attempt measures anew; the output that is in the log stays, and is only repeated. */
export function measuredAnew(made: MadeUnits | undefined): Made {
  return made === undefined ? {} : { made: made.image === undefined ? {} : { image: made.image } };
}

function unitOfMetric(name: string): Unit | null {
  return Object.hasOwn(METRICS, name) ? (METRICS[name] ?? null) : null;
}

/** Whole units, half up; null for what is no number. */
function countOf(value: unknown): number | null {
  if (typeof value !== "number" || !Number.isFinite(value)) return null;
  return Math.min(Math.max(Math.round(value), 0), UNITS_MAX);
}
