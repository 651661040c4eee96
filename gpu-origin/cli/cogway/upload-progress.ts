/** How an upload looks: on a terminal a bar for all of it and one for each layer that is under way, elsewhere a line for each layer that is there. */
import cliProgress, { type MultiBar, type Params, type SingleBar } from "cli-progress";
import type { SourceBlob } from "../../packaging/pack.ts";
import { bytes, duration, type Terminal } from "./terminal.ts";
import type { UploadProgress } from "./upload.ts";

const BAR_CHARACTERS = 24;
const LABEL_CHARACTERS = 36;
/** Without a terminal a long layer says this often how far it is. */
const STILL_SENDING_MS = 10_000;

/** What a bar is called, and since when it fills. */
interface Payload {
  label: string;
  startedAt: number;
}

interface Row {
  startedAt: number;
  count: number;
  toldAt: number;
  bar: SingleBar | null;
}

export class UploadView implements UploadProgress {
  readonly #terminal: Terminal;
  readonly #bars: MultiBar | null;
  readonly #total: SingleBar | null;
  readonly #rows = new Map<SourceBlob, Row>();

  constructor(terminal: Terminal, blobs: SourceBlob[]) {
    this.#terminal = terminal;
    this.#bars = terminal.isLive
      ? new cliProgress.MultiBar({
          format: (_options, params, payload: Payload) => this.#barLine(params, payload),
          stream: process.stdout,
          hideCursor: true,
          clearOnComplete: true,
          emptyOnZero: true,
        })
      : null;
    const size = blobs.reduce((sum, { descriptor }) => sum + descriptor.size, 0);
    this.#total = this.#bars?.create(size, 0, { label: "all", startedAt: performance.now() }) ?? null;
  }

  known(blob: SourceBlob): void {
    this.#total?.setTotal(this.#total.getTotal() - blob.descriptor.size);
  }

  begin(blob: SourceBlob): void {
    const startedAt = performance.now();
    const payload: Payload = { label: blob.label, startedAt };
    const before = this.#rows.get(blob);
    if (before !== undefined) this.#total?.increment(-before.count);
    before?.bar?.update(0, payload);
    const bar = before?.bar ?? this.#bars?.create(blob.descriptor.size, 0, payload) ?? null;
    this.#rows.set(blob, { startedAt, count: 0, toldAt: startedAt, bar });
  }

  sent(blob: SourceBlob, count: number): void {
    const row = this.#rows.get(blob);
    if (row === undefined) return;
    row.count += count;
    row.bar?.update(row.count);
    this.#total?.increment(count);
    const now = performance.now();
    if (row.bar !== null || now - row.toldAt < STILL_SENDING_MS) return;
    row.toldAt = now;
    this.#say(`${blob.label}: ${bytes(row.count)} of ${bytes(blob.descriptor.size)}, ${rate(row)}`);
  }

  retry(blob: SourceBlob, pauseMs: number, reason: string): void {
    const text = `${blob.label}: ${reason}; again in ${duration(pauseMs)}`;
    const row = this.#rows.get(blob);
    if (row?.bar === undefined || row.bar === null) this.#say(text);
    else row.bar.update(row.count, { label: text, startedAt: row.startedAt });
  }

  done(blob: SourceBlob): void {
    const row = this.#rows.get(blob);
    if (row === undefined) return;
    this.#rows.delete(blob);
    if (row.bar !== null) this.#bars?.remove(row.bar);
    else if (blob.label !== "config") this.#say(`${blob.label}: ${bytes(blob.descriptor.size)}, ${rate(row)}`);
  }

  /** Whatever happened: the bars go, and the cursor comes back. */
  end(): void {
    this.#bars?.stop();
  }

  /** Lines between bars would tear them. */
  #say(text: string): void {
    if (this.#bars === null) this.#terminal.step("upload", text);
  }

  #barLine({ progress, value, total }: Params, { label, startedAt }: Payload): string {
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
