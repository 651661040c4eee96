/**
 * Addresses that grant what they name to whoever holds them: streams and output files. Each carries a keyed check, so a guessed or altered one is
 * refused without a look-up. They have no time in them: there is one URL per output, and it ends when the data is removed.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { PREDICTION_ID_LENGTH } from "./ids.ts";
import type { FileRef } from "./origin-protocol.ts";

/** 132 bits. */
const SIGNATURE_CHARACTERS = 22;

function sign(secret: string, text: string): string {
  return createHmac("sha256", secret).update(text).digest("base64url").slice(0, SIGNATURE_CHARACTERS);
}

function isEqual(given: string, expected: string): boolean {
  const a = Buffer.from(given);
  const b = Buffer.from(expected);
  return a.length === b.length && timingSafeEqual(a, b);
}

/** The last part of a stream's URL. `secret` is the edge's signing secret. */
export function streamToken(secret: string, predictionId: string): string {
  return predictionId + sign(secret, `stream:${predictionId}`);
}

/** The prediction that a stream's token opens; null when it was not made by us. */
export function readStreamToken(secret: string, token: string): string | null {
  const id = token.slice(0, PREDICTION_ID_LENGTH);
  if (!/^[a-z2-7]{26}$/.test(id)) return null;
  return isEqual(token.slice(PREDICTION_ID_LENGTH), sign(secret, `stream:${id}`)) ? id : null;
}

interface OutputName {
  prediction_id: string;
  n: number;
  name: string;
}

function outputSignature(secret: string, { prediction_id, n, name }: OutputName): string {
  return sign(secret, `output:${prediction_id}:${n}:${name}`);
}

/** Path and query of one output file, below the public URL. */
export function outputPath(secret: string, predictionId: string, file: FileRef["$cogway_file"]): string {
  const { n, name } = file;
  const signature = outputSignature(secret, { prediction_id: predictionId, n, name });
  // A model may write this by hand, with half a surrogate pair in it: then there is no such file, and no reason to fail.
  return `/outputs/${predictionId}/${n}/${encodeURIComponent(name.toWellFormed())}?s=${signature}`;
}

/** `name` is decoded. */
export function isOutputSignatureValid(secret: string, output: OutputName, signature: string): boolean {
  return isEqual(signature, outputSignature(secret, output));
}
