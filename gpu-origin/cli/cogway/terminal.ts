/**
 * What a command shows. People read lines, with colours only on a terminal (NO_COLOR takes them away); programs read `--json`: then stdout has JSON and
 * nothing else. A failure is one message on stderr, whoever reads.
 */
import { styleText } from "node:util";

export type Style = "red" | "yellow" | "green" | "blue" | "magenta" | "cyan" | "dim" | "bold";

export interface Stream {
  isTTY?: boolean | undefined;
  columns?: number | undefined;
  write(text: string): boolean;
}

export interface TerminalOptions {
  stdout: Stream;
  stderr: Stream;
  isInteractive: boolean;
  isJson: boolean;
  env: NodeJS.ProcessEnv;
}

/** Width of a line's prefix, so that what follows is aligned. */
const PREFIX_CHARACTERS = 12;
const PREFIX_STYLES: Record<string, Style> = {
  check: "cyan",
  pack: "blue",
  upload: "magenta",
  fetch: "yellow",
  resolve: "yellow",
  environment: "yellow",
  schema: "cyan",
  image: "blue",
  test: "green",
};

export class Terminal {
  readonly isJson: boolean;
  /** questions may be asked */
  readonly isInteractive: boolean;
  /** lines may be drawn again: bars, a line that changes */
  readonly isLive: boolean;
  readonly #stdout: Stream;
  readonly #stderr: Stream;
  readonly #env: NodeJS.ProcessEnv;
  #status = "";

  constructor({ stdout, stderr, isInteractive, isJson, env }: TerminalOptions) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#env = env;
    this.isJson = isJson;
    this.isInteractive = isInteractive && !isJson;
    this.isLive = stdout.isTTY === true && env["TERM"] !== "dumb" && !isJson;
  }

  /** For people; nothing with `--json`. */
  line(text = ""): void {
    if (this.isJson) return;
    this.status("");
    this.#stdout.write(`${text}\n`);
  }

  /** A line of a long command, with the step that it belongs to in front. */
  step(prefix: string, text: string): void {
    for (const line of text.split("\n")) this.line(`${this.prefix(prefix)}${line}`);
  }

  prefix(name: string): string {
    return this.paint(PREFIX_STYLES[name] ?? "dim", name.padEnd(PREFIX_CHARACTERS));
  }

  /** A model's text, as it is. */
  raw(text: string): void {
    if (this.isJson) return;
    this.status("");
    this.#stdout.write(text);
  }

  /** One JSON document, or one of several lines; nothing without `--json`. */
  json(value: unknown): void {
    if (this.isJson) this.#stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** The answer: a document for programs, else what `show` makes of it. */
  answer(value: unknown, show: () => string): void {
    if (this.isJson) this.json(value);
    else this.line(show());
  }

  /** A line on stderr that the next one replaces; only on a terminal. */
  status(text: string): void {
    if (this.isJson || this.#stderr.isTTY !== true || this.#env["TERM"] === "dumb" || text === this.#status) return;
    this.#status = text;
    const width = (this.#stderr.columns ?? 80) - 1;
    this.#stderr.write(`\r\x1b[2K${this.paint("dim", text.slice(0, width), this.#stderr)}`);
  }

  fault(text: string): void {
    this.status("");
    this.#stderr.write(`${this.paint("red", "error", this.#stderr)} ${text}\n`);
  }

  paint(style: Style, text: string, stream: Stream = this.#stdout): string {
    const isColoured = stream.isTTY === true && (this.#env["NO_COLOR"] ?? "") === "" && this.#env["TERM"] !== "dumb";
    return isColoured && text !== "" ? styleText(style, text, { validateStream: false }) : text;
  }
}

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Such as `3.2 kB`: decimal, as disks and networks count. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1_000 && unit < BYTE_UNITS.length - 1) {
    value /= 1_000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${BYTE_UNITS[unit] ?? ""}`;
}

export function duration(ms: number): string {
  const s = ms / 1_000;
  if (s < 10) return `${s.toFixed(1)} s`;
  return s < 120 ? `${Math.round(s)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

/** Such as `1 file`, `2 files`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Columns as wide as their widest cell; the last is not padded. */
export function table(rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) => row.map((cell, column) => cell.padEnd(column === row.length - 1 ? 0 : (widths[column] ?? 0))))
    .map((row) => row.join("  ").trimEnd())
    .join("\n");
}

/** A line that a shell reads as it stands. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
