/**
 * What a run may cost, before it runs: from the prices in force, how long earlier runs of the version took, and the numbers that the input names. Pure.
 *
 * `expected` is the mean. `worst` is for planning and for reservations: twice the longest run that is known, where enough are known. Nothing ever costs more
 * than `limit`, which is what the deadline allows (Cancel-After, else 24 h); `Cogway-Max-Cost` draws a tighter line.
 */
import { amountMicros, type PriceItem, type Rates, type Unit, usd } from "./pricing.ts";
import { type Histogram, meanOf, quantile, type RunHistory } from "./run-history.ts";

export interface EstimateFacts {
  rates: Rates;
  /** validated, with the schema's defaults filled in: they name numbers too */
  input: Record<string, unknown>;
  /** null: no run is known */
  history: RunHistory | null;
  /** from creation to the end, milliseconds; null where the caller gave none */
  cancel_after_ms: number | null;
}

/** How a line's quantities were found. */
export type EstimateSource = "history" | "input" | "deadline" | "assumption";

export interface EstimateLine extends PriceItem {
  /** whole units; microseconds of time */
  expected: number;
  worst: number;
  source: EstimateSource;
  /** the input's member that names the number */
  member: string | null;
}

export interface CostEstimate {
  expected_micros: number;
  /** the part of it that rests on history or on the input, and not on an assumption */
  known_micros: number;
  worst_micros: number;
  /** what the deadline allows; where the model alone decides how many units it makes, as many as in `worst_micros` */
  limit_micros: number;
  lines: EstimateLine[];
  /** in words, for people */
  summary: string;
}

/** A prediction ends after this, whatever its caller says. */
export const PREDICTION_MAX_MS = 86_400_000;
/** Fewer runs than this say nothing of the longest. */
export const RUNS_MIN = 5;
/** The next run may take longer than every earlier one. */
const WORST_FACTOR = 2;
/** Of a version that never ran. */
const ASSUMED_MS = 10_000;

/** What is made where the input names no number, and what a model may make at most of its own accord. */
const ASSUMED: Record<Exclude<Unit, "second">, { expected: number; worst: number }> = {
  image: { expected: 1, worst: 4 },
  video_second: { expected: 5, worst: 60 },
  audio_second: { expected: 10, worst: 600 },
  input_token: { expected: 100, worst: 4_096 },
  output_token: { expected: 256, worst: 8_192 },
  prediction: { expected: 1, worst: 1 },
};

/** Members of inputs that say how many units are made; the first that is there counts. */
const MEMBERS: Partial<Record<Unit, readonly string[]>> = {
  image: ["num_outputs", "num_images", "number_of_images", "num_samples", "n"],
  video_second: ["duration", "duration_seconds", "seconds", "video_length"],
  audio_second: ["duration", "duration_seconds", "seconds", "max_duration"],
  output_token: ["max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length"],
};
/** What is read is text of these members. English has some four characters a token; no token is less than a byte. */
const READ_MEMBERS = ["prompt", "system_prompt", "messages", "text", "input"];
const CHARACTERS_PER_TOKEN = 4;

export function estimate(facts: EstimateFacts): CostEstimate {
  const { rates, cancel_after_ms } = facts;
  const limitUs = Math.min(cancel_after_ms ?? PREDICTION_MAX_MS, PREDICTION_MAX_MS) * 1_000;
  if (rates.basis === "free" || rates.basis === "online") {
    return { ...NOTHING, summary: unbilled(rates) };
  }
  if (rates.items.length === 0) {
    const summary = `Nothing has a price here: the operator set none for ${rates.hardware}.`;
    return { ...NOTHING, summary };
  }
  const lines = rates.items.map((item) =>
    item.unit === "second" ? timeLine(item, facts, limitUs) : unitLine(item, facts),
  );
  const sum = (quantity: (line: EstimateLine) => number): number =>
    lines.reduce((total, line) => total + amountMicros(quantity(line), line, rates.discount_ppm), 0);
  return {
    expected_micros: sum((line) => line.expected),
    known_micros: sum((line) => (line.source === "history" || line.source === "input" ? line.expected : 0)),
    worst_micros: sum((line) => line.worst),
    limit_micros: sum((line) => (line.unit === "second" ? limitUs : line.worst)),
    lines,
    summary: [...lines.map((line) => sentence(line, facts, limitUs)), COLD_STARTS].join(" "),
  };
}

const NOTHING = { expected_micros: 0, known_micros: 0, worst_micros: 0, limit_micros: 0, lines: [] };

const COLD_STARTS = "Waiting, booting and setup of shared instances are free.";

function timeLine(item: PriceItem, { history }: EstimateFacts, limitUs: number): EstimateLine {
  const at = (ms: number) => Math.min(Math.round(ms * 1_000), limitUs);
  const times = history?.run_ms ?? null;
  const mean = times === null ? null : meanOf(times);
  if (times === null || mean === null) {
    return { ...item, expected: at(ASSUMED_MS), worst: limitUs, source: "deadline", member: null };
  }
  const worst = times.count < RUNS_MIN ? limitUs : at(times.max * WORST_FACTOR);
  return { ...item, expected: at(mean), worst, source: "history", member: null };
}

function unitLine(item: PriceItem, { input, history }: EstimateFacts): EstimateLine {
  if (item.unit === "second" || item.unit === "prediction") {
    return { ...item, expected: 1, worst: 1, source: "input", member: null };
  }
  if (item.unit === "input_token") return readLine(item, input);
  const made = meanAndMost(history?.units[item.unit]);
  const member = MEMBERS[item.unit]?.find((name) => isCount(input[name]));
  if (member !== undefined) {
    const count = Math.ceil(Number(input[member]));
    // The most that a text may be is seldom what it becomes.
    const expected = item.unit === "output_token" && made !== null ? Math.min(made.mean, count) : count;
    return { ...item, expected, worst: count, source: "input", member };
  }
  if (made === null) return { ...item, ...ASSUMED[item.unit], source: "assumption", member: null };
  return { ...item, expected: made.mean, worst: made.most * WORST_FACTOR, source: "history", member: null };
}

function meanAndMost(made: Histogram | undefined): { mean: number; most: number } | null {
  const mean = made === undefined ? null : meanOf(made);
  return made === undefined || mean === null ? null : { mean: Math.round(mean), most: made.max };
}

function readLine(item: PriceItem, input: Record<string, unknown>): EstimateLine {
  const member = READ_MEMBERS.find((name) => input[name] !== undefined && input[name] !== null);
  if (member === undefined) return { ...item, ...ASSUMED.input_token, source: "assumption", member: null };
  const read = READ_MEMBERS.map((name) => input[name]).filter((value) => value !== undefined && value !== null);
  const text = read.map((value) => (typeof value === "string" ? value : JSON.stringify(value))).join("");
  const worst = new TextEncoder().encode(text).byteLength;
  return { ...item, expected: Math.ceil(text.length / CHARACTERS_PER_TOKEN), worst, source: "input", member };
}

function isCount(value: unknown): boolean {
  return (
    typeof value === "number" && Number.isFinite(value) && value >= 0 && value <= Number.MAX_SAFE_INTEGER / 1_000_000
  );
}

function unbilled({ basis }: Rates): string {
  if (basis === "free") return "It is free.";
  return "The prediction itself costs nothing: its account pays for all the time that the instances are online, setup and idle included.";
}

function sentence(line: EstimateLine, facts: EstimateFacts, limitUs: number): string {
  if (line.unit === "second") return timeSentence(line, facts, limitUs);
  const unit = line.unit.replace("_", " ");
  const plural = (count: number) => `${count} ${unit}${count === 1 ? "" : "s"}`;
  const count = line.expected === line.worst ? plural(line.worst) : `${line.expected} to ${plural(line.worst)}`;
  const why = {
    input: line.member === null ? "" : ` by the input's ${line.member}`,
    history: ", as earlier runs made",
    assumption: " assumed, since the input names no number",
    deadline: "",
  }[line.source];
  return `$${usd(line.price_micros)} per ${line.per === 1 ? unit : plural(line.per)}: ${count}${why}.`;
}

function timeSentence(line: EstimateLine, { history, cancel_after_ms }: EstimateFacts, limitUs: number): string {
  const time = `Time is $${usd(amountMicros(1_000_000, line, 0))} a second.`;
  const whose = cancel_after_ms === null ? "the longest that a prediction may take" : "your deadline";
  const deadline = `${whose}, ${seconds(limitUs)}`;
  if (line.source === "deadline") {
    return `${time} No run of this version is known yet: ${seconds(line.expected)} are assumed, and the worst is ${deadline}.`;
  }
  const { count, max } = history?.run_ms ?? { count: 0, max: 0 };
  const runs = `${count} recent run${count === 1 ? "" : "s"} took ${seconds(line.expected)} on average`;
  if (count < RUNS_MIN) return `${time} ${runs}; too few to tell more, so the worst is ${deadline}.`;
  return `${time} ${runs}, ${seconds(max * 1_000)} at most; the worst is twice that. Nothing runs longer than ${deadline}.`;
}

/** How long it may wait before it starts, milliseconds: half of earlier ones waited no longer, one in a hundred longer. Null where nothing is known. */
export interface WaitEstimate {
  queue_ms: { p50: number; p99: number } | null;
  /** of an instance that has to start first */
  boot_ms: number | null;
  setup_ms: number | null;
}

export function waitEstimate(history: RunHistory | null): WaitEstimate {
  const p50 = history === null ? null : quantile(history.queue_ms, 0.5);
  const p99 = history === null ? null : quantile(history.queue_ms, 0.99);
  return {
    queue_ms: p50 === null || p99 === null ? null : { p50, p99 },
    boot_ms: history === null ? null : quantile(history.boot_ms, 0.5),
    setup_ms: history === null ? null : quantile(history.setup_ms, 0.5),
  };
}

function seconds(us: number): string {
  const s = us / 1_000_000;
  if (s >= 3_600 && s % 3_600 === 0) return `${s / 3_600} h`;
  return s >= 100 ? `${Math.round(s)} s` : `${Number(s.toPrecision(3))} s`;
}
