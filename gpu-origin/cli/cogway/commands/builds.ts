/** `cogway builds`: those of a model, and how one is canceled. */
import type { Command } from "commander";
import type { BuildSummary } from "../../../../schema/client/index.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { modelName } from "../context.ts";
import { table } from "../terminal.ts";

interface BuildsOptions extends CommonOptions {
  cancel?: string;
}

/** Newest first; older ones have their versions. */
const SHOWN_MAX = 20;

export function buildsCommand(runner: Runner): Command {
  return newCommand("builds", "List the builds of a model, or cancel one", [
    "cogway builds ada/my-model",
    "cogway builds ada/my-model --cancel 4q2m…",
  ])
    .argument("<model>", "owner/name")
    .option("--cancel <id>", "cancel this build")
    .action(
      action<[string], BuildsOptions>(runner, async ({ client, terminal }, reference, { cancel }) => {
        modelName(reference);
        if (cancel !== undefined) {
          const build = await client.builds.cancel(reference, cancel);
          terminal.answer(build, () => `Build ${build.id}: ${build.status}`);
          return;
        }
        const found: BuildSummary[] = [];
        for await (const build of client.builds.list(reference)) if (found.push(build) >= SHOWN_MAX) break;
        terminal.answer({ builds: found }, () => buildTable(found) || `${reference} has no builds. Push it.`);
      }),
    );
}

function buildTable(builds: BuildSummary[]): string {
  return table(
    builds.map(({ id, created_at, status, version, error }) => [
      id,
      created_at.slice(0, 19),
      status,
      version?.slice(0, 12) ?? error?.split("\n")[0] ?? "",
    ]),
  );
}
