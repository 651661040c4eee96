/** How an upload looks: a bar for each layer that is under way on a terminal, a line for each that is there elsewhere. */
import cliProgress, { type MultiBar, type SingleBar } from "cli-progress";
import type { SourceBlob } from "../../packaging/pack.ts";
import { bytes, duration, type Terminal } from "./terminal.ts";
import type { UploadProgress } from "./upload.ts";

const BAR_CHARACTERS = 24;
const LABEL_CHARACTERS = 36;
/** Without a terminal a long layer says this often how far it is. */
const STILL_SENDING_MS = 10_000;

interface Row {
  startedAt: number;
  count: number;
  toldAt: number;
  bar: SingleBar | null;
}

export class UploadView implements UploadProgress {
  readonly #terminal: Terminal;
  readonly #bars: MultiBar | null;
  readonly #rows = new Map<SourceBlob, Row>();

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#bars = terminal.isLive
      ? new cliProgress.MultiBar({
          format: (_options, params, row: { label: string; startedAt: number }) => this.#barLine(params, row),
          stream: process.stdout,
          hideCursor: true,
          clearOnComplete: true,
          gracefulExit: true,
        })
      : null;
  }

  known(): void {
    // Counted in the summary: a large source has hundreds.
  }

  begin(blob: SourceBlob): void {
    const before = this.#rows.get(blob);
    const now = performance.now();
    before?.bar?.update(0);
    const bar =
      before?.bar ?? this.#bars?.create(blob.descriptor.size, 0, { label: blob.label, startedAt: now }) ?? null;
    this.#rows.set(blob, { startedAt: now, count: 0, toldAt: now, bar });
  }

  sent(blob: SourceBlob, count: number): void {
    const row = this.#rows.get(blob);
    if (row === undefined) return;
    row.count += count;
    row.bar?.update(row.count);
    const now = performance.now();
    if (row.bar !== null || now - row.toldAt < STILL_SENDING_MS) return;
    row.toldAt = now;
    this.#say(`${blob.label}: ${bytes(row.count)} of ${bytes(blob.descriptor.size)}, ${rate(row)}`);
  }

  retry(blob: SourceBlob, pauseMs: number, reason: string): void {
    this.#say(this.#terminal.paint("yellow", `${blob.label}: ${reason}; again in ${duration(pauseMs)}`));
  }

  done(blob: SourceBlob): void {
    const row = this.#rows.get(blob);
    if (row === undefined) return;
    this.#rows.delete(blob);
    if (row.bar !== null) this.#bars?.remove(row.bar);
    if (blob.label !== "config") this.#say(`${blob.label}: ${bytes(blob.descriptor.size)}, ${rate(row)}`);
  }

  /** Whatever happened: the cursor comes back. */
  end(): void {
    this.#bars?.stop();
  }

  #say(text: string): void {
    if (this.#bars === null || this.#rows.size === 0) this.#terminal.step("upload", text);
    else this.#bars.log(`${this.#terminal.prefix("upload")}${text}\n`);
  }

  #barLine(
    { progress, value, total }: cliProgress.Params,
    { label, startedAt }: { label: string; startedAt: number },
  ): string {
    const filled = Math.round(progress * BAR_CHARACTERS);
    const bar = this.#terminal.paint("magenta", "█".repeat(filled)) + "░".repeat(BAR_CHARACTERS - filled);
    const name = label.length > LABEL_CHARACTERS ? `…${label.slice(1 - LABEL_CHARACTERS)}` : label;
    const speed = rate({ startedAt, count: value });
    return `${this.#terminal.prefix("upload")}${bar} ${name}  ${bytes(value)} of ${bytes(total)}  ${speed}`;
  }
}

function rate({ startedAt, count }: Pick<Row, "startedAt" | "count">): string {
  const seconds = Math.max((performance.now() - startedAt) / 1_000, 0.001);
  return `${bytes(count / seconds)}/s`;
}
