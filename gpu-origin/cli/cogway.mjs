#!/usr/bin/env node
/** The binary `cogway`: its first step, in plain JavaScript for Node 20. It runs where its caller stands; stdout is the command's alone. */
import { runOnNode24 } from "./on-node-24.mjs";

await runOnNode24({
  script: "gpu-origin/cli/cogway/main.ts",
  args: process.argv.slice(2),
  cwd: process.cwd(),
  progress: process.stderr,
});
