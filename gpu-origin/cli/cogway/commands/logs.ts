/** `cogway logs`: what a prediction, a build or a model's last instance wrote, and writes until its end. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import type { Build, Prediction } from "../../../../schema/client/index.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { type Context, modelName, modelPath } from "../context.ts";
import { CliFault } from "../fault.ts";
import { followBuild } from "../follow-build.ts";
import { setupReports } from "../setup-reports.ts";

/** For models that do not stream. */
const POLL_MS = 1_000;
const ENDED = ["succeeded", "failed", "canceled", "aborted"];

export function logsCommand(runner: Runner): Command {
  return newCommand("logs", "Show the log of a prediction, or of a model's build and setup, to its end", [
    "cogway logs q7zk3…             # a prediction",
    "cogway logs ada/my-model       # its last build, and how its last instance started",
    "cogway logs ada/my-model 4q2m… # a build",
  ])
    .argument("<prediction or model>", "id of a prediction, or owner/name")
    .argument("[build]", "id of a build (default: the last one)")
    .action(
      action<[string, string | undefined], CommonOptions>(runner, async (context, what, build) => {
        if (!what.includes("/")) await predictionLog(context, what);
        else if (build !== undefined) await buildLog(context, await context.client.builds.get(what, build));
        else await modelLog(context, what);
      }),
    );
}

async function modelLog(context: Context, reference: string): Promise<void> {
  const { client, http, terminal } = context;
  const model = modelName(reference);
  let hasBuild = false;
  for await (const { id } of client.builds.list(reference)) {
    await buildLog(context, await client.builds.get(reference, id));
    hasBuild = true;
    break;
  }
  const [report] = await setupReports(http, model);
  if (report === undefined && !hasBuild) {
    throw new CliFault(`${reference} has neither a build nor an instance yet. Push it: cogway push DIR ${reference}`);
  }
  if (report === undefined) return;
  terminal.json({ event: "setup", ...report });
  terminal.raw(report.logs ?? "");
  terminal.line(`Instance ${report.instance} is ${report.state}${report.reason === null ? "." : `: ${report.reason}`}`);
}

async function buildLog({ client, http, terminal }: Context, build: Build): Promise<void> {
  let ended = build;
  if (build.completed_at === null) {
    ended = await followBuild(terminal, client, build, new AbortController().signal);
  } else {
    const path = `${modelPath(modelName(build.model))}/builds/${build.id}/logs`;
    for await (const text of (await http.open(path)).body?.pipeThrough(new TextDecoderStream()) ?? []) {
      terminal.json({ event: "logs", data: text });
      terminal.raw(text);
    }
  }
  terminal.json({ event: "done", build: ended });
  const { id, status, version, error } = ended;
  const rest = version ?? error?.trimEnd() ?? "";
  terminal.line(`Build ${id} ${status}${rest === "" ? "." : `: ${rest}`}`);
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
