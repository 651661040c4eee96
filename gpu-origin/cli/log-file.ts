/** A log on disk that cannot fill it: above its bound it becomes `<name>.1`, and the one before goes. */
import { appendFileSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname } from "node:path";

/** Two of them are kept for each log. */
const BYTES_MAX = 16 * 1024 ** 2;

export class LogFile {
  readonly path: string;
  #bytes: number;

  constructor(path: string) {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    this.#bytes = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** One line or several; a newline is added. */
  write(text: string): void {
    if (this.#bytes > BYTES_MAX) {
      renameSync(this.path, `${this.path}.1`);
      this.#bytes = 0;
    }
    const line = `${text}\n`;
    this.#bytes += Buffer.byteLength(line);
    appendFileSync(this.path, line);
  }
}
