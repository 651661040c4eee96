/** What a container writes, out of the engine's attached stream, where each piece has a head that says from which channel it comes and how long it is. */
import { Transform, type TransformCallback } from "node:stream";

const HEAD_BYTES = 8;

/** Both channels as one stream of bytes; it holds back who writes when nobody reads. */
export class ContainerOutput extends Transform {
  #head = Buffer.alloc(0);
  /** of the piece that is being read */
  #left = 0;

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left === 0) {
        const more = chunk.subarray(at, at + HEAD_BYTES - this.#head.length);
        this.#head = Buffer.concat([this.#head, more]);
        at += more.length;
        if (this.#head.length < HEAD_BYTES) break;
        this.#left = this.#head.readUInt32BE(4);
        this.#head = Buffer.alloc(0);
        continue;
      }
      const piece = chunk.subarray(at, at + this.#left);
      this.push(piece);
      at += piece.length;
      this.#left -= piece.length;
    }
    done();
  }
}
