/**
 * What a model's process wrote outside of predictions, the last 16 KiB of it. coglet mirrors it on stderr as JSON lines (its own health answer misses the
 * prints of a quick setup and every traceback of a failed one); lines that are no JSON are tracebacks and are kept as they are.
 */
import { z } from "zod";

const SETUP_LOG_BYTES_MAX = 16_384;

const LineSchema = z.object({
  target: z.string(),
  level: z.string().default(""),
  fields: z.object({
    message: z.string().default(""),
    error: z.string().optional(),
    prediction_id: z.string().optional(),
  }),
});

export class SetupLog {
  #lines: string[] = [];
  #size = 0;

  add(line: string): void {
    const text = lineText(line);
    if (text === null) return;
    const kept = text.slice(-SETUP_LOG_BYTES_MAX);
    this.#lines.push(kept);
    this.#size += kept.length + 1;
    while (this.#size > SETUP_LOG_BYTES_MAX) this.#size -= (this.#lines.shift()?.length ?? this.#size) + 1;
  }

  text(): string {
    return this.#lines.map((line) => `${line}\n`).join("");
  }

  lastLine(): string {
    return this.#lines.findLast((line) => line.trim() !== "")?.trim() ?? "it wrote nothing";
  }
}

/** Null for lines that belong to one prediction: they are its caller's alone. */
function lineText(line: string): string | null {
  if (!line.startsWith("{")) return line;
  // The most frequent ones are known without parsing.
  if (line.includes('"target":"coglet::prediction"')) return null;
  try {
    const parsed = LineSchema.safeParse(JSON.parse(line));
    if (!parsed.success) return line;
    const { target, level, fields } = parsed.data;
    if (target === "coglet::prediction" || fields.prediction_id !== undefined) return null;
    const isUser = target === "coglet::setup" || target === "coglet::user";
    if (isUser) return fields.message;
    return `[${target}] ${level} ${fields.message}${fields.error === undefined ? "" : `: ${fields.error}`}`;
  } catch {
    return line;
  }
}
