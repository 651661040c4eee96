/**
 * Bounds the log lines of one prediction: the first mebibyte is kept as it comes, then one line says that more is cut, and the last lines follow at the end,
 * since they tell most about a failure.
 */

/** Kept of one prediction's logs, in characters. */
export const PREDICTION_LOG_MAX = 1_048_576;
/** Kept of the end of a flood, in characters. */
export const LOG_TAIL_MAX = 16_384;

export class LogBudget {
  #left = PREDICTION_LOG_MAX - LOG_TAIL_MAX;
  #cut = 0;
  #tail = "";

  /** What of `data` is to be kept now. */
  take(data: string): string[] {
    if (this.#cut === 0 && data.length <= this.#left) {
      this.#left -= data.length;
      return [data];
    }
    const isFirst = this.#cut === 0;
    const head = isFirst ? data.slice(0, this.#left) : "";
    this.#cut += data.length - head.length;
    this.#tail = (this.#tail + data.slice(head.length)).slice(-LOG_TAIL_MAX);
    if (!isFirst) return [];
    const end = head === "" || head.endsWith("\n") ? "" : "\n";
    return [
      `${head}${end}[cogway] Logs above ${PREDICTION_LOG_MAX} characters are cut; the last lines follow at the end.\n`,
    ];
  }

  /** The end of a flood. */
  rest(): string[] {
    if (this.#cut === 0) return [];
    const lines = this.#tail.slice(this.#cut > LOG_TAIL_MAX ? this.#tail.indexOf("\n") + 1 : 0);
    return [`[cogway] ${Math.max(0, this.#cut - lines.length)} characters of logs were cut.\n${lines}`];
  }
}
