/** Which origin calls: a signature over method, path, body digest and time, under a live key of that origin. */
import type { Context, MiddlewareHandler } from "hono";
import { originSecret } from "../../durable-objects/origin-directory.ts";
import { AppError } from "../../schema/problems.ts";
import { HEADER_BODY_SHA256, HEADER_KEY_ID, verifyRequest } from "../../schema/request-signature.ts";
import type { AppEnv } from "../env.ts";

/** Requires a signature over the headers and the body, which is read before. */
export const verifyOrigin: MiddlewareHandler<AppEnv> = async (c, next) => {
  c.set("originId", await verifySignature(c, await c.req.text()));
  await next();
};

/** The same for a body that is streamed: whoever reads it must hold it to {@link claimedDigest}. */
export const verifyOriginHeaders: MiddlewareHandler<AppEnv> = async (c, next) => {
  c.set("originId", await verifySignature(c));
  await next();
};

export function isSigned(c: Context<AppEnv>): boolean {
  return c.req.header(HEADER_KEY_ID) !== undefined;
}

export function claimedDigest(c: Context<AppEnv>): string {
  return c.req.header(HEADER_BODY_SHA256) ?? "";
}

/** The outcome of storing a streamed body; one that is not what was signed is the origin's fault. */
export async function held<T>(storing: Promise<T>): Promise<T> {
  try {
    return await storing;
  } catch (error) {
    if (!/checksum|sha-?256|length|bytes/i.test(String(error))) throw error;
    throw new AppError("request.malformed", "The body is not the one that was signed.", { cause: error });
  }
}

/** The origin of a route behind one of the two. */
export function originOf(c: Context<AppEnv>): string {
  const originId = c.get("originId");
  if (originId === undefined) throw new Error("this route is not behind verifyOrigin");
  return originId;
}

/** The origin whose key signed the request. Without `body` the digest is taken on trust. */
export async function verifySignature(c: Context<AppEnv>, body?: string): Promise<string> {
  const key = await originSecret(c.env, c.req.header(HEADER_KEY_ID) ?? "");
  const result = verifyRequest(
    {
      method: c.req.method,
      // The bytes that were asked for: a parsed URL may spell them otherwise.
      path: c.req.url.slice(c.req.url.indexOf("/", "https://".length)),
      header: (name) => c.req.header(name),
      ...(body === undefined ? {} : { body }),
    },
    () => key?.secret ?? null,
    Date.now(),
  );
  if (!result.ok || key === null) {
    const reason = result.ok ? "unknown_key" : result.reason;
    throw new AppError("origin.unauthenticated", `The request's signature was refused: ${reason}.`);
  }
  return key.origin_id;
}
