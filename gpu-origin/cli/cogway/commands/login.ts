/** Who the command line is to a platform: login, logout, whoami. */
import { text as readAll } from "node:stream/consumers";
import { isCancel, password, text } from "@clack/prompts";
import type { Command } from "commander";
import type { z } from "zod";
import type { AccountSchema } from "../../../../schema/api/account.ts";
import { Http } from "../../../../schema/client/http.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { checkedToken, dropLogin, keepLogin, loginsPath, normalUrl, urlOf } from "../connection.ts";
import type { Context } from "../context.ts";
import { CliFault, INTERRUPTED_EXIT } from "../fault.ts";

type Account = z.infer<typeof AccountSchema>;

interface LoginOptions extends CommonOptions {
  url?: string;
  tokenStdin?: true;
}

export function loginCommand(runner: Runner): Command {
  return newCommand("login", "Keep the address of a platform, and a token of yours", [
    "cogway login",
    "cogway login --url https://cogway.example",
    "cogway login --url http://127.0.0.1:8787 --token-stdin < .cogway/token",
  ])
    .option(
      "--url <url>",
      "the platform (default: COGWAY_URL, else that of the last login, else http://127.0.0.1:8787)",
    )
    .option("--token-stdin", "read the token from standard input")
    .action(action<[], LoginOptions>(runner, login));
}

async function login(context: Context, options: LoginOptions): Promise<void> {
  const { terminal, env } = context;
  const url = normalUrl(options.url ?? (await askedUrl(context, urlOf(env))));
  const token = checkedToken(options.tokenStdin ? await tokenOfStdin() : await askedToken(context, url), "That");
  const account = await new Http({ baseUrl: url, token }).json<Account>("GET", "/v1/account").catch((error) => {
    throw loginFault(error, url);
  });
  keepLogin(env, { url, token });
  terminal.answer({ url, username: account.username }, () => {
    return `Logged in to ${url} as ${account.username}. The token is in ${loginsPath(env)}, for you alone.`;
  });
}

/** Of the platform that is about to be kept: the context knows none yet. */
function loginFault(error: unknown, url: string): unknown {
  const status = error instanceof Error && "status" in error ? error.status : null;
  if (status === 401) return new CliFault(`${url} refuses this token. Copy it again, or make another there.`);
  if (status === 0) return new CliFault(`${url} cannot be reached. Start the platform, or name another with --url.`);
  return error;
}

async function askedUrl({ terminal }: Context, suggestion: string): Promise<string> {
  if (!terminal.isInteractive) return suggestion;
  const given = await text({ message: "Address of the platform", initialValue: suggestion });
  return isCancel(given) ? canceled() : given;
}

async function askedToken({ terminal, env }: Context, url: string): Promise<string> {
  const fromEnvironment = env["COGWAY_TOKEN"]?.trim() ?? "";
  if (fromEnvironment !== "") return fromEnvironment;
  if (!terminal.isInteractive) {
    throw new CliFault("There is no terminal to ask for the token. Pipe it in: cogway login --token-stdin < file");
  }
  const given = await password({ message: `Token for ${url}` });
  return isCancel(given) ? canceled() : given.trim();
}

async function tokenOfStdin(): Promise<string> {
  return (await readAll(process.stdin)).trim();
}

function canceled(): never {
  throw new CliFault("Nothing was kept.", { exitCode: INTERRUPTED_EXIT });
}

export function logoutCommand(runner: Runner): Command {
  return newCommand("logout", "Forget the token of a platform", [
    "cogway logout",
    "cogway logout --url https://cogway.example",
  ])
    .option("--url <url>", "the platform (default: COGWAY_URL, else that of the last login)")
    .action(
      action<[], LoginOptions>(runner, async ({ terminal, env }, options) => {
        const url = normalUrl(options.url ?? urlOf(env));
        const wasKept = dropLogin(env, url);
        terminal.answer({ url, was_logged_in: wasKept }, () =>
          wasKept
            ? `Logged out of ${url}. The token itself still works: revoke it there if it must not.`
            : `There was no login at ${url}.`,
        );
      }),
    );
}

export function whoamiCommand(runner: Runner): Command {
  return newCommand("whoami", "Show your account, and the platform that commands go to", [
    "cogway whoami",
    "cogway whoami --json",
  ]).action(
    action<[], CommonOptions>(runner, async (context) => {
      const account = await context.http.json<Account>("GET", "/v1/account");
      const { url } = context.connection;
      context.terminal.answer({ url, ...account }, () => `${account.username} at ${url}`);
    }),
  );
}
