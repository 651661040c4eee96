/** What a member takes, as a short note beside its label. */
type Json = Record<string, unknown>;

export function limitsOf(schema: Json): string {
  const { type, minimum, maximum, maxLength, minItems, maxItems } = schema;
  if (type === "integer" || type === "number") return range(minimum, maximum);
  if (type === "string" && typeof maxLength === "number")
    return `up to ${maxLength.toLocaleString("en-US")} characters`;
  if (type === "array") return range(minItems, maxItems);
  return "";
}

function range(from: unknown, to: unknown): string {
  if (typeof from === "number" && typeof to === "number") return `${short(from)} – ${short(to)}`;
  if (typeof from === "number") return `from ${short(from)}`;
  if (typeof to === "number") return `up to ${short(to)}`;
  return "";
}

const short = (value: number) => (Math.abs(value) >= 1e13 ? value.toExponential(1) : value.toLocaleString("en-US"));

/** A larger file is uploaded by itself; base64 would make it a third larger, and requests would be slow to repeat. */
const INLINE_BYTES_MAX = 1024 * 1024;
/** As many bytes as one upload may have. */
export const UPLOAD_BYTES_MAX = 100 * 1024 * 1024;

/** How a picked file travels: inside the request as a data URI, by an upload of its own, or not at all. */
export function wayOfFile(sizeBytes: number): "inline" | "upload" | "refused" {
  if (sizeBytes <= INLINE_BYTES_MAX) return "inline";
  return sizeBytes <= UPLOAD_BYTES_MAX ? "upload" : "refused";
}

/** A slider is only of use where both ends are known and a hand can hit the values. */
const SLIDER_STEPS_MAX = 10_000;

/** The step of a number's slider; null when the number has none. */
export function sliderStep(schema: Json): number | null {
  const { type, minimum, maximum, multipleOf } = schema;
  if (typeof minimum !== "number" || typeof maximum !== "number" || maximum <= minimum) return null;
  const span = maximum - minimum;
  if (type === "integer") {
    const step = typeof multipleOf === "number" ? multipleOf : 1;
    return span / step <= SLIDER_STEPS_MAX ? step : null;
  }
  if (typeof multipleOf === "number") return multipleOf;
  // A hundred steps or a little more, each a round number: 0..1 moves by 0.01, 0..2 by 0.01, 0..30 by 0.1.
  return 10 ** Math.floor(Math.log10(span / 100) + 1e-9);
}
