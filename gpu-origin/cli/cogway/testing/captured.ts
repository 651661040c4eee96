/** A stream that keeps what was written to it. */
import type { Stream } from "../terminal.ts";

export class Captured implements Stream {
  readonly isTTY: boolean;
  readonly columns = 80;
  text = "";

  constructor(isTTY = false) {
    this.isTTY = isTTY;
  }

  write(text: string): boolean {
    this.text += text;
    return true;
  }
}
