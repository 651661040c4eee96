/** The binary `cogway` on Node 24: arguments, streams and signals; everything else is below program.ts. */
import { Interrupts } from "./interrupts.ts";
import { runProgram } from "./program.ts";

// A closed pipe (`cogway versions … | head`) ends the command as one that was told all it wanted to know.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => process.exit(0));
const interrupts = new Interrupts();
interrupts.listen();
const exitCode = await runProgram(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  isInteractive: process.stdin.isTTY === true && process.stdout.isTTY === true,
  env: process.env,
  interrupts,
});
process.exit(exitCode);
