/** First step of every npm script that runs our own code: installs what is missing, then runs the command on Node 24. Plain JavaScript for Node 20. */
import { runOnNode24 } from "./on-node-24.mjs";

const COMMANDS = {
  start: "gpu-origin/cli/start.ts",
  test: "gpu-origin/cli/test.ts",
  check: "gpu-origin/cli/check.ts",
  bench: "gpu-origin/cli/bench.ts",
  backup: "gpu-origin/cli/backup.ts",
  restore: "gpu-origin/cli/restore.ts",
};

const [command = "", ...args] = process.argv.slice(2);
if (!Object.hasOwn(COMMANDS, command)) {
  process.stderr.write(`usage: bootstrap.mjs ${Object.keys(COMMANDS).join("|")} [arguments]\n`);
  process.exit(2);
}
await runOnNode24({ script: COMMANDS[command], args });
