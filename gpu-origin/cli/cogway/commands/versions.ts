/** `cogway versions`: those of a model, and what is different for callers between two. */
import type { Command } from "commander";
import type { SchemaDiff } from "../../../../schema/schema-compatibility.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { type Context, modelName, modelPath } from "../context.ts";
import { CliFault } from "../fault.ts";
import { diffLines, diffStyle } from "../push-report.ts";
import { table } from "../terminal.ts";
import { findVersion, getModel, listVersions, type Version } from "../versions-client.ts";

const SHORT_CHARACTERS = 12;

export function versionsCommand(runner: Runner): Command {
  return (
    newCommand("versions", "List the versions of a model, or compare two", [
      "cogway versions ada/my-model",
      "cogway versions diff ada/my-model               # the latest with the one before it",
      "cogway versions diff ada/my-model 4f1c2a 9b03de",
    ])
      .argument("<model>", "owner/name")
      // What stands behind `diff` is its own.
      .enablePositionalOptions()
      .action(action<[string], CommonOptions>(runner, list))
      .addCommand(
        newCommand("diff", "What is different for callers between two versions", [
          "cogway versions diff ada/my-model",
          "cogway versions diff ada/my-model 4f1c2a 9b03de --json",
        ])
          .argument("<model>", "owner/name")
          .argument("[before]", "id of a version, or its beginning (default: the one before the latest)")
          .argument("[after]", "id of another (default: the latest)")
          .action(action<[string, string | undefined, string | undefined], CommonOptions>(runner, diff)),
      )
  );
}

async function list({ http, terminal }: Context, reference: string): Promise<void> {
  const model = modelName(reference);
  const { latest_version } = await getModel(http, model);
  const versions: Version[] = [];
  for await (const version of listVersions(http, model)) versions.push(version);
  const shown = versions.map(({ id, created_at, cog_version }) => {
    return { id, created_at, cog_version, is_latest: id === latest_version?.id };
  });
  terminal.answer({ model: reference, versions: shown }, () =>
    shown.length === 0
      ? `${reference} has no versions. Push one: cogway push DIR ${reference}`
      : table(shown.map(({ id, created_at, is_latest }) => [id, created_at.slice(0, 19), is_latest ? "latest" : ""])),
  );
}

async function diff(
  { http, terminal }: Context,
  reference: string,
  beforeId: string | undefined,
  afterId: string | undefined,
): Promise<void> {
  const model = modelName(reference);
  const after = afterId === undefined ? await latest(http, reference) : await findVersion(http, model, afterId);
  const before =
    beforeId === undefined ? await previous(http, reference, after) : await findVersion(http, model, beforeId);
  const found = await http.json<SchemaDiff>("GET", `${modelPath(model)}/versions/${after.id}/diff`, {
    query: { from: before.id },
  });
  terminal.json({ model: reference, before: before.id, after: after.id, ...found });
  terminal.line(`${before.id.slice(0, SHORT_CHARACTERS)} → ${after.id.slice(0, SHORT_CHARACTERS)}`);
  for (const { kind, text } of diffLines(found)) {
    terminal.line(kind === "same" ? text : `${terminal.paint(diffStyle(kind), kind.padEnd(8))} ${text}`);
  }
}

async function latest(http: Context["http"], reference: string): Promise<Version> {
  const { latest_version } = await getModel(http, modelName(reference));
  if (latest_version === null) throw new CliFault(`${reference} has no version yet. Push one.`);
  return latest_version;
}

/** The one that was made before `version`. */
export async function previous(http: Context["http"], reference: string, version: Version): Promise<Version> {
  let isNext = false;
  for await (const each of listVersions(http, modelName(reference))) {
    if (isNext) return each;
    isNext = each.id === version.id;
  }
  throw new CliFault(`${reference} has no version before ${version.id.slice(0, SHORT_CHARACTERS)}.`);
}
