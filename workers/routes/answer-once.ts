/** Creates that may be repeated: with an Idempotency-Key the first answer is kept by the account for 24 h, and a repeat gets it byte for byte. */
import type { Context } from "hono";
import { sha256Hex } from "../../schema/ids.ts";
import { parseIdempotencyKey } from "../domain/create-headers.ts";
import type { KeptResponse } from "../domain/create-prediction.ts";
import { type AppEnv, edgeOf } from "../env.ts";

export interface Idempotency {
  key: string;
  body_sha256: string;
}

/** `answer` makes it, and keeps it under the key that it is given. */
export async function answerOnce(
  c: Context<AppEnv>,
  answer: (idempotency: Idempotency | null) => Promise<KeptResponse>,
): Promise<Response> {
  const key = parseIdempotencyKey(c.req.header("idempotency-key"));
  if (key === null) return response(await answer(null));
  const body_sha256 = sha256Hex(`${c.req.path}\n${await c.req.text()}`);
  const answered = answer({ key, body_sha256 });
  // A caller that goes away retries with its key: what it started is finished and kept for then.
  edgeOf(c).later(answered.catch(() => undefined));
  return response(await answered);
}

function response({ status, headers, body }: KeptResponse): Response {
  return new Response(body, { status, headers: [...headers, ["content-type", "application/json"]] });
}
