/** node:crypto, whose random bytes are the run's. */
import crypto from "node:crypto";
import { currentRandom } from "../random.ts";

export * from "node:crypto";
export default crypto;

export function randomBytes(length: number): Buffer {
  return Buffer.from(currentRandom().bytes(length));
}

export function randomUUID(): string {
  const hex = [...currentRandom().bytes(16)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
