/**
 * A log on disk that cannot fill it: above its bound it becomes `<name>.1`, and the one before goes. Where the disk is full all the same, lines are left
 * out, and counted: nothing ends for its log.
 */
import { appendFileSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";

/** Two of them are kept for each log. */
const BYTES_MAX = 16 * 1024 ** 2;

export class LogFile {
  readonly path: string;
  #bytes: number;
  /** lines, or several at once, that found no room */
  #lost = 0;

  constructor(path: string) {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    this.#bytes = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** One line or several; a newline is added. */
  write(text: string): void {
    const gap = this.#lost === 0 ? "" : `(${this.#lost} lines before this one could not be written)\n`;
    const line = `${gap}${text}\n`;
    try {
      if (this.#bytes > BYTES_MAX) {
        renameSync(this.path, `${this.path}.1`);
        this.#bytes = 0;
      }
      appendFileSync(this.path, line);
      this.#bytes += Buffer.byteLength(line);
      this.#lost = 0;
    } catch {
      this.#lost += 1;
    }
  }
}
