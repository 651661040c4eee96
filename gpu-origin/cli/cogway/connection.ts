/** Which platform a command speaks to, and as whom: COGWAY_URL and COGWAY_TOKEN, else what `cogway login` kept. Nothing is guessed. */
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { isTokenWellFormed } from "../../../schema/tokens.ts";
import { CliFault } from "./fault.ts";

export const DEFAULT_URL = "http://127.0.0.1:8787";

export interface Connection {
  /** without a slash at its end */
  url: string;
  token: string;
}

const LoginsSchema = z.object({
  /** the platform of the last login: used where COGWAY_URL names none */
  url: z.string().nullable(),
  tokens: z.record(z.string(), z.string()),
});
type Logins = z.infer<typeof LoginsSchema>;

export function loginsPath(env: NodeJS.ProcessEnv): string {
  const configured = env["XDG_CONFIG_HOME"];
  const folder = configured === undefined || configured === "" ? join(homedir(), ".config") : configured;
  return join(folder, "cogway", "logins.json");
}

export function normalUrl(text: string): string {
  if (!/^https?:\/\//.test(text) || !URL.canParse(text)) {
    throw new CliFault(`${text} is no http or https address; give one such as ${DEFAULT_URL}.`);
  }
  const { protocol, username, password } = new URL(text);
  if (username !== "" || password !== "") throw new CliFault(`Leave name and password out of the ${protocol} address.`);
  return text.replace(/\/+$/, "").replace(/\/v1$/, "");
}

/** Where a command goes that needs no token. */
export function urlOf(env: NodeJS.ProcessEnv): string {
  return normalUrl(given(env, "COGWAY_URL") ?? readLogins(env).url ?? DEFAULT_URL);
}

export function connectionOf(env: NodeJS.ProcessEnv): Connection {
  const url = urlOf(env);
  const token = given(env, "COGWAY_TOKEN");
  if (token !== undefined) return { url, token: checkedToken(token, "COGWAY_TOKEN") };
  const kept = readLogins(env).tokens[url];
  if (kept === undefined) throw new CliFault(`You are not logged in to ${url}. Run cogway login, or set COGWAY_TOKEN.`);
  return { url, token: kept };
}

/** A mistyped token is told at once, before anything is asked. */
export function checkedToken(token: string, source: string): string {
  if (isTokenWellFormed(token)) return token;
  throw new CliFault(
    `${source} is no token of Cogway (cw_ and 36 characters, the last of them a checksum). Copy it again.`,
  );
}

export function keepLogin(env: NodeJS.ProcessEnv, { url, token }: Connection): void {
  const logins = readLogins(env);
  writeLogins(env, { url, tokens: { ...logins.tokens, [url]: token } });
}

/** False where there was none. */
export function dropLogin(env: NodeJS.ProcessEnv, url: string): boolean {
  const { [url]: dropped, ...tokens } = readLogins(env).tokens;
  if (dropped === undefined) return false;
  writeLogins(env, { url: Object.keys(tokens)[0] ?? null, tokens });
  return true;
}

function readLogins(env: NodeJS.ProcessEnv): Logins {
  const path = loginsPath(env);
  if (!existsSync(path)) return { url: null, tokens: {} };
  try {
    return LoginsSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (cause) {
    throw new CliFault(`${path} cannot be read as logins. Remove it and log in again.`, { cause });
  }
}

/** For its owner's eyes alone, and whole at any moment. */
function writeLogins(env: NodeJS.ProcessEnv, logins: Logins): void {
  const path = loginsPath(env);
  const next = `${path}.${process.pid}`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(next, `${JSON.stringify(logins, null, 2)}\n`, { mode: 0o600 });
  chmodSync(next, 0o600);
  renameSync(next, path);
}

function given(env: NodeJS.ProcessEnv, name: string): string | undefined {
  const value = env[name]?.trim();
  return value === "" ? undefined : value;
}
