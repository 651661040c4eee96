/**
 * Tokens of the registry (the Docker token flow): signed, short-lived, and for named actions on named repositories. A token stands for the API token that it
 * was given for: each request asks anew what that one may do, so a revocation or a lost right counts at once, and the token only narrows it.
 */

import { createHmac } from "node:crypto";
import { jwtVerify, SignJWT } from "jose";
import { z } from "zod";
import type { Settings } from "../env.ts";

/** A layer's request is checked when it begins, and clients ask for a new token when theirs is over. */
const TOKEN_LIFE_S = 900;
/** Of an upload's token: its address is renewed in each answer, so this bounds the pause between two of them. */
const UPLOAD_TOKEN_LIFE_S = 3_600;
/** In one request for a token; a client asks for one repository, and for one more that it mounts from. */
const SCOPES_MAX = 50;

export const REGISTRY_ACTIONS = ["pull", "push", "delete"] as const;
export type RegistryAction = (typeof REGISTRY_ACTIONS)[number];

const AccessSchema = z.object({
  type: z.literal("repository"),
  /** owner/name */
  name: z.string(),
  actions: z.array(z.enum(REGISTRY_ACTIONS)),
});
export type RegistryAccess = z.infer<typeof AccessSchema>;

/** Whom a token stands for. */
export type RegistrySubject = { kind: "token"; hash: string } | { kind: "origin"; origin_id: string };

const ClaimsSchema = z.object({ sub: z.string(), access: z.array(AccessSchema), path: z.string().optional() });

function keyOf({ signingSecret }: Settings): Uint8Array {
  return createHmac("sha256", signingSecret).update("registry-token").digest();
}

/** What a token is for, as the challenge names it and clients send it back. */
export function registryService({ publicUrl }: Settings): string {
  return new URL(publicUrl).host;
}

export async function signRegistryToken(
  settings: Settings,
  subject: RegistrySubject,
  access: RegistryAccess[],
): Promise<{ token: string; expires_in: number; issued_at: string }> {
  const issued_at = Math.floor(Date.now() / 1_000);
  const token = await sign(settings, subject, { access }, issued_at, TOKEN_LIFE_S);
  return { token, expires_in: TOKEN_LIFE_S, issued_at: new Date(issued_at * 1_000).toISOString() };
}

/** A token that does for one upload what `subject` may do with it, and nothing else: `path` is the upload's. */
export function signUploadToken(
  settings: Settings,
  subject: RegistrySubject,
  { name, path }: { name: string; path: string },
): Promise<string> {
  const access: RegistryAccess[] = [{ type: "repository", name, actions: ["pull", "push"] }];
  return sign(settings, subject, { access, path }, Math.floor(Date.now() / 1_000), UPLOAD_TOKEN_LIFE_S);
}

function sign(
  settings: Settings,
  subject: RegistrySubject,
  claims: { access: RegistryAccess[]; path?: string },
  issued_at: number,
  life_s: number,
): Promise<string> {
  return new SignJWT(claims)
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setSubject(subject.kind === "token" ? `token:${subject.hash}` : `origin:${subject.origin_id}`)
    .setIssuer(settings.publicUrl)
    .setAudience(registryService(settings))
    .setIssuedAt(issued_at)
    .setExpirationTime(issued_at + life_s)
    .sign(keyOf(settings));
}

/** Null for a token that is not ours, or over. `path`: the only one that it may be used at; null is no such bound. */
export async function readRegistryToken(
  settings: Settings,
  token: string,
): Promise<{ subject: RegistrySubject; access: RegistryAccess[]; path: string | null } | null> {
  try {
    const { payload } = await jwtVerify(token, keyOf(settings), {
      algorithms: ["HS256"],
      issuer: settings.publicUrl,
      audience: registryService(settings),
    });
    const { sub, access, path = null } = ClaimsSchema.parse(payload);
    const [kind, id = ""] = sub.split(/:(.*)/s);
    if (kind === "origin") return { subject: { kind, origin_id: id }, access, path };
    return kind === "token" ? { subject: { kind, hash: id }, access, path } : null;
  } catch {
    return null;
  }
}

/** `repository:owner/name:pull,push`, several with spaces between; what cannot be read is left out, as it grants nothing. */
export function parseScopes(texts: string[]): RegistryAccess[] {
  const scopes = texts.flatMap((text) => text.split(" ")).slice(0, SCOPES_MAX);
  return scopes.flatMap((scope): RegistryAccess[] => {
    const [, name = "", wanted = ""] = /^repository:([^:]+):([a-z*,]+)$/.exec(scope) ?? [];
    const all = wanted.split(",");
    const actions = REGISTRY_ACTIONS.filter((action) => all.includes(action) || all.includes("*"));
    return name === "" || actions.length === 0 ? [] : [{ type: "repository", name, actions }];
  });
}

export function scopeText({ name, actions }: Pick<RegistryAccess, "name" | "actions">): string {
  return `repository:${name}:${actions.join(",")}`;
}

export function grants(access: RegistryAccess[], name: string, action: RegistryAction): boolean {
  return access.some((each) => each.name === name && each.actions.includes(action));
}
