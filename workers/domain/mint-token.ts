/** What a new token may do: never more than the one that makes it, and for no longer. Pure. */
import { AppError } from "../../schema/problems.ts";
import type { Caller } from "../env.ts";
import type { TokenBounds } from "../storage/tokens.ts";
import { invalidInput } from "./validate-input.ts";

/**
 * The bounds of a token that `caller` makes at `now` (epoch milliseconds). Bounds of the caller's own token that the request leaves out are passed on;
 * any that it exceeds is refused, and the refusal names it. `isOwn`: it is for the caller's account; the operator's scope never goes to another.
 */
export function boundToken(
  caller: Pick<Caller, "scopes" | "allowed_models" | "token">,
  wanted: TokenBounds,
  isOwn: boolean,
  now: number,
): TokenBounds {
  if (wanted.expires_at !== null && wanted.expires_at <= now) {
    throw invalidInput([{ type: "format", field: "expires_at", description: "must be in the future" }]);
  }
  const scopes = [...new Set(wanted.scopes)];
  const wider = scopes.filter((scope) => !caller.scopes.includes(scope) || (scope === "admin" && !isOwn));
  const bound = caller.allowed_models;
  const beyond = bound === null ? [] : (wanted.allowed_models ?? []).filter((model) => !bound.includes(model));
  const end = caller.token.expires_at;
  const refusals = [
    ...(wider.length > 0 ? [`the scopes ${wider.join(", ")}`] : []),
    ...(beyond.length > 0 ? [`the models ${beyond.join(", ")}`] : []),
    ...(end !== null && wanted.expires_at !== null && wanted.expires_at > end
      ? [`an end after ${new Date(end).toISOString()}`]
      : []),
  ];
  if (refusals.length > 0) {
    throw new AppError("auth.forbidden", `A token cannot make a wider one: yours cannot give ${refusals.join("; ")}.`);
  }
  return {
    scopes,
    allowed_models: wanted.allowed_models === null ? bound : [...new Set(wanted.allowed_models)],
    expires_at: wanted.expires_at ?? end,
  };
}
