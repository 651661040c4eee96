/** How a command is made: its help with examples, `--json`, and an action that is given a {@link Context}. */
import { Command } from "commander";
import type { Context } from "./context.ts";

/** Runs what a command does, with the context that its options ask for. */
export type Runner = (isJson: boolean, body: (context: Context) => Promise<void>) => Promise<void>;

export function newCommand(name: string, description: string, examples: string[]): Command {
  return new Command(name)
    .description(description)
    .option("--json", "JSON on stdout and nothing else: one document, or one a line")
    .addHelpText("after", `\nExamples:\n${examples.map((example) => `  $ ${example}`).join("\n")}`);
}

/** Options of every command. */
export interface CommonOptions {
  json?: true;
}

/** The action of a command: commander gives its arguments, then its options. */
export function action<A extends unknown[], O extends CommonOptions>(
  runner: Runner,
  body: (context: Context, ...rest: [...A, O]) => Promise<void>,
): (...given: [...A, O, Command]) => Promise<void> {
  return (...given) => {
    const rest = given.slice(0, -1) as [...A, O];
    const options = rest[rest.length - 1] as O;
    return runner(options.json === true, (context) => body(context, ...rest));
  };
}
