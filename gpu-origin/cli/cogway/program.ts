/** The commands together, and what happens to their faults. Everything that it touches is given, so tests run it in their own process. */
import { Command, CommanderError } from "commander";
import type { Runner } from "./command.ts";
import { buildsCommand } from "./commands/builds.ts";
import { checkCommand } from "./commands/check.ts";
import { loginCommand, logoutCommand, whoamiCommand } from "./commands/login.ts";
import { logsCommand } from "./commands/logs.ts";
import { originCommand } from "./commands/origin.ts";
import { pushCommand } from "./commands/push.ts";
import { rollbackCommand } from "./commands/rollback.ts";
import { runCommand } from "./commands/run.ts";
import { versionsCommand } from "./commands/versions.ts";
import { Context } from "./context.ts";
import { faultOf } from "./fault.ts";
import type { Interrupts } from "./interrupts.ts";
import { type Stream, Terminal } from "./terminal.ts";

/** A command that was not written right, as with most programs. */
const USAGE_EXIT = 2;

export interface World {
  stdout: Stream;
  stderr: Stream;
  /** somebody is there to answer questions */
  isInteractive: boolean;
  env: NodeJS.ProcessEnv;
  interrupts: Interrupts;
}

/** The exit code. */
export async function runProgram(args: string[], world: World): Promise<number> {
  const { stdout, stderr, env } = world;
  let context: Context | null = null;
  const runner: Runner = async (isJson, body) => {
    context = new Context(new Terminal({ ...world, isJson }), env, world.interrupts);
    await body(context);
    context.terminal.status("");
  };
  try {
    await programOf(runner, stdout).parseAsync(args.length === 0 ? ["--help"] : args, {
      from: "user",
    });
    return 0;
  } catch (error) {
    const terminal = new Terminal({ ...world, isJson: false });
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0;
      const message = error.message.replace(/^error: /, "");
      terminal.fault(`${message}${/[.?)]$/.test(message) ? "" : "."} cogway --help shows what there is.`);
      return USAGE_EXIT;
    }
    const fault = faultOf(error, urlOfContext(context));
    terminal.fault(fault.message);
    if (env["COGWAY_DEBUG"] === "1") stderr.write(`${stackOf(fault)}\n`);
    return fault.exitCode;
  }
}

function programOf(runner: Runner, stdout: Stream): Command {
  const program = new Command("cogway")
    // Options belong to the command that they stand behind.
    .enablePositionalOptions()
    .description("Push Cog models to a Cogway platform, run them, and look after their versions.")
    .addHelpText(
      "after",
      `
Examples:
  $ cogway login
  $ cogway check ./my-model
  $ cogway push ./my-model ada/my-model
  $ cogway run ada/my-model -i prompt="a cat" -o cat.png

The platform is that of COGWAY_URL and COGWAY_TOKEN, else that of the last cogway login.
Colours: only on a terminal, and not with NO_COLOR. COGWAY_DEBUG=1 shows where an error comes from.`,
    );
  const make = [
    loginCommand,
    logoutCommand,
    whoamiCommand,
    checkCommand,
    pushCommand,
    buildsCommand,
    versionsCommand,
    rollbackCommand,
    runCommand,
    logsCommand,
    originCommand,
  ];
  for (const command of make) program.addCommand(command(runner));
  for (const command of [program, ...program.commands.flatMap((each) => [each, ...each.commands])]) {
    command.exitOverride().configureOutput({
      writeOut: (text) => void stdout.write(text),
      writeErr: () => undefined,
      outputError: () => undefined,
      getOutHasColors: () => false,
    });
  }
  return program;
}

function urlOfContext(context: Context | null): string | null {
  return context?.url ?? null;
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : "";
  return `${error.stack}${cause}`;
}
