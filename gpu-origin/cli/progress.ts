/** What a person sees of the launcher and the runners: one line per step, with its time; colours and a live line only on a terminal. */
import { styleText } from "node:util";

/** Without a terminal a long step says this often that it goes on. */
const STILL_WORKING_MS = 15_000;
const LIVE_REFRESH_MS = 250;

export function seconds(sinceMs: number): string {
  const s = (performance.now() - sinceMs) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  return s < 120 ? `${Math.round(s)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

export interface Step {
  /** what it does right now */
  detail(text: string): void;
  /** `text`: what was done; without one the step leaves no line */
  end(text?: string): void;
}

class Progress {
  readonly #isLive = process.stdout.isTTY === true;
  #live: { title: string; detail: string; startedAt: number; timer: NodeJS.Timeout } | null = null;

  constructor() {
    // A closed pipe (`npm start | head`) is no reason to end.
    process.stdout.on("error", () => {});
    process.stderr.on("error", () => {});
  }

  line(text = ""): void {
    this.#clear();
    process.stdout.write(`${text}\n`);
    this.#draw();
  }

  warn(text: string): void {
    this.line(`${paint("yellow", "warning")} ${text}`);
  }

  fault(text: string): void {
    this.#clear();
    process.stderr.write(`${paint("red", "error", process.stderr)} ${text}\n`);
  }

  /** Begins a step; one is shown at a time, so a new one takes the place of the last. */
  begin(title: string): Step {
    this.#stop();
    const startedAt = performance.now();
    const live = {
      title,
      detail: "",
      startedAt,
      timer: setInterval(() => this.#tick(), this.#isLive ? LIVE_REFRESH_MS : STILL_WORKING_MS),
    };
    live.timer.unref();
    this.#live = live;
    if (this.#isLive) this.#draw();
    else process.stdout.write(`${title} …\n`);
    return {
      detail: (text) => {
        live.detail = text;
        this.#draw();
      },
      end: (text) => {
        if (this.#live === live) this.#stop();
        if (text !== undefined) this.line(`${paint("green", "✓")} ${text} ${paint("dim", `(${seconds(startedAt)})`)}`);
      },
    };
  }

  #tick(): void {
    if (this.#live === null) return;
    if (this.#isLive) this.#draw();
    else process.stdout.write(`  ${this.#text(this.#live)}\n`);
  }

  #text({ title, detail, startedAt }: { title: string; detail: string; startedAt: number }): string {
    return `${title} … ${seconds(startedAt)}${detail === "" ? "" : `  ${detail}`}`;
  }

  #draw(): void {
    if (!this.#isLive || this.#live === null) return;
    const width = process.stdout.columns ?? 80;
    process.stdout.write(`\r\x1b[2K${this.#text(this.#live).slice(0, width - 1)}`);
  }

  #clear(): void {
    if (this.#isLive && this.#live !== null) process.stdout.write("\r\x1b[2K");
  }

  #stop(): void {
    if (this.#live === null) return;
    clearInterval(this.#live.timer);
    this.#clear();
    this.#live = null;
  }
}

export function paint(
  style: "red" | "yellow" | "green" | "dim" | "bold",
  text: string,
  stream: NodeJS.WriteStream = process.stdout,
): string {
  return styleText(style, text, { stream });
}

export const progress = new Progress();
