/** `cogway logs`: what a prediction or a build wrote, and writes until its end. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import type { Prediction } from "../../../../schema/client/index.ts";
import { type Build, type BuildSummary, BuildsClient, hasEnded } from "../builds-client.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { type Context, modelName } from "../context.ts";
import { CliFault } from "../fault.ts";
import { followBuild } from "../follow-build.ts";

/** For models that do not stream. */
const POLL_MS = 1_000;
const ENDED = ["succeeded", "failed", "canceled", "aborted"];

export function logsCommand(runner: Runner): Command {
  return newCommand("logs", "Show the log of a prediction, or of a model's build, to its end", [
    "cogway logs q7zk3…             # a prediction",
    "cogway logs ada/my-model       # its last build",
    "cogway logs ada/my-model 4q2m… # a build",
  ])
    .argument("<prediction or model>", "id of a prediction, or owner/name")
    .argument("[build]", "id of a build (default: the last one)")
    .action(
      action<[string, string | undefined], CommonOptions>(runner, async (context, what, build) => {
        if (what.includes("/")) await buildLog(context, what, build);
        else await predictionLog(context, what);
      }),
    );
}

async function buildLog(
  { http, connection, terminal }: Context,
  reference: string,
  id: string | undefined,
): Promise<void> {
  const builds = new BuildsClient(http, connection, modelName(reference));
  const build = await builds.get(id ?? (await lastBuild(builds, reference)).id);
  if (hasEnded(build)) {
    for await (const text of (await builds.log(build.id)).body?.pipeThrough(new TextDecoderStream()) ?? []) {
      terminal.json({ event: "logs", data: text });
      terminal.raw(text);
    }
  }
  const ended = hasEnded(build) ? build : await followBuild(terminal, builds, build, new AbortController().signal);
  terminal.json({ event: "done", build: ended });
  terminal.line(endText(ended));
}

async function lastBuild(builds: BuildsClient, reference: string): Promise<BuildSummary> {
  for await (const build of builds.list()) return build;
  throw new CliFault(`${reference} has no builds. Push it: cogway push DIR ${reference}`);
}

function endText({ id, status, version, error }: Build): string {
  const rest = version ?? error?.trimEnd() ?? "";
  return `Build ${id} ${status}${rest === "" ? "." : `: ${rest}`}`;
}

async function predictionLog({ client, terminal }: Context, id: string): Promise<void> {
  let prediction = await client.predictions.get(id);
  const show = (data: string): void => {
    if (data === "") return;
    terminal.json({ event: "logs", data });
    terminal.raw(data);
  };
  if (prediction.urls["stream"] !== undefined && !ENDED.includes(prediction.status)) {
    for await (const { event, data } of client.predictions.events(prediction)) if (event === "logs") show(data);
    prediction = await client.predictions.get(id);
  } else {
    let shown = 0;
    for (; ; prediction = await client.predictions.get(id)) {
      show(prediction.logs.slice(shown));
      shown = Math.max(shown, prediction.logs.length);
      if (ENDED.includes(prediction.status)) break;
      await sleep(POLL_MS);
    }
  }
  terminal.json({ event: "done", status: prediction.status, error: prediction.error });
  terminal.line(terminal.paint("dim", predictionEnd(prediction)));
}

function predictionEnd({ id, status, error }: Prediction): string {
  return `Prediction ${id} ${status}${error === null ? "." : `: ${error}`}`;
}
