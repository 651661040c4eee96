import { parseArgs } from "node:util";
import { progress } from "./progress.ts";

/** A command that takes names of files and `--help`. A fault is one line, and exit code 1. */
export async function fileCommand(help: string, run: (files: string[]) => Promise<void>): Promise<void> {
  try {
    const { values, positionals } = parseArgs({
      options: { help: { type: "boolean", short: "h" } },
      args: process.argv.slice(2),
      allowPositionals: true,
    });
    if (values.help) progress.line(help);
    else await run(positionals);
  } catch (error) {
    progress.fault(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}
