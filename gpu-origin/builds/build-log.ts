/** Lines of a build as events: joined while they come fast, cut where one is too long, and left out beyond a bound, which the log says. */

/** So late at most is a line seen. */
const FLUSH_MS = 200;
/** Of one event; the protocol's bound is 65,536 characters. */
const EVENT_CHARACTERS_MAX = 32_768;
/** Of one build: installers of the largest environments write some 100 KB. */
export const LOG_CHARACTERS_MAX = 4 * 1024 ** 2;

export class BuildLog {
  readonly #emit: (data: string) => void;
  /** what of a line nobody else may see, such as folders of this host, and what stands for it */
  readonly #shown: (line: string) => string;
  #waiting: string[] = [];
  #characters = 0;
  #written = 0;
  #leftOut = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(emit: (data: string) => void, shown: (line: string) => string) {
    this.#emit = emit;
    this.#shown = shown;
  }

  add(line: string): void {
    const text = `${this.#shown(line).slice(0, EVENT_CHARACTERS_MAX - 1)}\n`;
    if (this.#written + text.length > LOG_CHARACTERS_MAX) {
      this.#leftOut += 1;
      return;
    }
    this.#written += text.length;
    if (this.#characters + text.length > EVENT_CHARACTERS_MAX) this.flush();
    this.#waiting.push(text);
    this.#characters += text.length;
    this.#timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#waiting.length === 0) return;
    const data = this.#waiting.join("");
    this.#waiting = [];
    this.#characters = 0;
    this.#emit(data);
  }

  end(): void {
    this.flush();
    if (this.#leftOut > 0) this.#emit(`… ${this.#leftOut} further lines were left out: the log is too long.\n`);
  }
}
