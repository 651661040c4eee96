/** `cogway check`: every fault of a folder that can be told without running it, with its line and column. */
import { existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import type { Command } from "commander";
import { checkModel, type ModelCheck } from "../../../packaging/check-model.ts";
import { faultText } from "../../../packaging/yaml-faults.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import type { Context } from "../context.ts";
import { CliFault } from "../fault.ts";

export function checkCommand(runner: Runner): Command {
  return newCommand("check", "Look for faults in a model's folder, without sending anything", [
    "cogway check",
    "cogway check ./my-model --json",
  ])
    .argument("[dir]", "folder with a cog.yaml", ".")
    .action(
      action<[string], CommonOptions>(runner, async ({ terminal }, dir) => {
        const folder = modelFolder(dir);
        const check = checkModel(folder);
        const { faults, warnings, resolution } = check;
        terminal.json({ folder, ok: faults.length === 0, faults, warnings, compatibility: resolution });
        showWarnings(terminal, check);
        requireNoFaults(folder, check);
        terminal.line(`${terminal.paint("green", "✓")} ${dir} has no faults.`);
        terminal.line(`  ${baseText(check)}`);
      }),
    );
}

export function modelFolder(dir: string): string {
  const folder = resolve(dir);
  if (!existsSync(folder)) throw new CliFault(`There is no folder ${folder}.`);
  if (!statSync(folder).isDirectory()) throw new CliFault(`${folder} is no folder; name the one with the cog.yaml.`);
  return folder;
}

export function showWarnings(terminal: Context["terminal"], { warnings }: ModelCheck): void {
  for (const warning of warnings) terminal.line(`${terminal.paint("yellow", "warning")} ${faultText(warning)}`);
}

/** One message for all of them. */
export function requireNoFaults(folder: string, { faults }: ModelCheck): void {
  if (faults.length === 0) return;
  const lines = faults.map((fault) => faultText(fault));
  if (lines.length === 1) throw new CliFault(`${folder}: ${lines[0]}`);
  throw new CliFault(`${folder} has ${lines.length} faults:\n${lines.map((line) => `  ${line}`).join("\n")}`);
}

/** What goes together for it, such as `Python 3.11, CUDA 12.4.1, cuDNN 9, torch==2.4.1 (nvidia/cuda:…)`. */
function baseText({ cog, resolution }: ModelCheck): string {
  const python = `Python ${cog?.build.python_version}`;
  if (resolution === null) return python;
  const { cuda, cudnn, constraints, base_image } = resolution;
  const parts = [python, ...(cuda === null ? [] : [`CUDA ${cuda}`]), ...(cudnn === null ? [] : [`cuDNN ${cudnn}`])];
  return `${[...parts, ...constraints].join(", ")} (${base_image})`;
}
