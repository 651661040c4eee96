/** `cogway rollback`: an earlier version is the latest again, at once: nothing is built, and no version goes. */
import type { Command } from "commander";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { type Context, modelName, modelPath } from "../context.ts";
import { CliFault } from "../fault.ts";
import { findVersion, getModel, type Model } from "../versions-client.ts";
import { previous } from "./versions.ts";

export function rollbackCommand(runner: Runner): Command {
  return newCommand("rollback", "Make an earlier version the latest again", [
    "cogway rollback ada/my-model          # to the one before the latest",
    "cogway rollback ada/my-model 4f1c2a",
  ])
    .argument("<model>", "owner/name")
    .argument("[version]", "id of a version, or its beginning (default: the one before the latest)")
    .action(action<[string, string | undefined], CommonOptions>(runner, rollback));
}

async function rollback({ http, terminal }: Context, reference: string, id: string | undefined): Promise<void> {
  const model = modelName(reference);
  const { latest_version: before } = await getModel(http, model);
  if (before === null) throw new CliFault(`${reference} has no version to go back from. Push one.`);
  const to = id === undefined ? await previous(http, reference, before) : await findVersion(http, model, id);
  await http.json<Model>("PATCH", modelPath(model), { body: { latest_version: to.id } });
  terminal.answer({ model: reference, version: to.id, previous_version: before.id }, () =>
    to.id === before.id
      ? `${reference}:${to.id} is the latest already.`
      : `${reference} is at ${to.id} again. Back: cogway rollback ${reference} ${before.id}`,
  );
}
