/** `cogway run`: a prediction from its inputs to its output, on this machine. */
import type { Command } from "commander";
import type { Prediction } from "../../../../schema/client/index.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { type Context, type ModelName, modelName } from "../context.ts";
import { CliFault, INTERRUPTED_EXIT } from "../fault.ts";
import { uploadFile } from "../files-client.ts";
import { inputOf, inputProperties, parseInput } from "../run-inputs.ts";
import { download, filePaths, fileUrls, isText, outputText } from "../run-outputs.ts";
import { bytes } from "../terminal.ts";
import { findVersion, getModel, type Version } from "../versions-client.ts";

interface RunOptions extends CommonOptions {
  input: string[];
  output?: string;
}

/** The platform's own bound of a prediction. */
const RUN_MS_MAX = 86_400_000;
/** Milliseconds between looks at why a prediction waits. */
const WAITING_POLL_MS = 2_000;
const ERROR_LOG_LINES = 12;

export function runCommand(runner: Runner): Command {
  return newCommand("run", "Run a model: its text as it comes, its files where you say", [
    'cogway run ada/story -i prompt="Once upon a time"',
    "cogway run ada/upscaler -i image=@small.png -o large.png",
    "cogway run ada/story:4f1c… -i max_tokens=20 --json",
  ])
    .argument("<model>", "owner/name, or owner/name:version")
    .option(
      "-i, --input <key=value>",
      "an input; a file as key=@path, others as text or JSON; again for each element of a list",
      (value: string, before: string[]) => [...before, value],
      [],
    )
    .option("-o, --output <path>", "write files of the output here; a folder where there are several")
    .action(action<[string], RunOptions>(runner, run));
}

async function run(context: Context, reference: string, options: RunOptions): Promise<void> {
  const { terminal, client, connection, interrupts } = context;
  const { model, version } = await chosenVersion(context, reference);
  const properties = inputProperties(version.openapi_schema);
  const given = options.input.map((text) => parseInput(text, properties));
  const abort = new AbortController();
  const inputs: { name: string; value: unknown; isElement: boolean }[] = [];
  for (const { name, value, isElement } of given) {
    if (value.kind === "file") terminal.status(`Uploading ${value.path} …`);
    const ready = value.kind === "file" ? await uploadFile(connection, value.path, abort.signal) : value.value;
    inputs.push({ name, value: ready, isElement });
  }
  const request = { version: `${model.owner}/${model.name}:${version.id}`, input: inputOf(inputs) };
  const prediction = await client.predictions.create(request);
  const stop = (): void => {
    void client.predictions.cancel(prediction.id).catch(() => undefined);
    abort.abort(new CliFault(`Canceled: ${prediction.id}.`, { exitCode: INTERRUPTED_EXIT }));
  };
  const ended = await interrupts.during(stop, () => untilEnd(context, prediction, version, abort.signal));
  if (ended.status !== "succeeded") terminal.json(ended);
  requireSuccess(ended);
  const files = await saveFiles(ended, options.output, abort.signal);
  terminal.json({ ...ended, ...(options.output === undefined ? {} : { files }) });
  for (const { path, size_bytes } of files) terminal.line(`${path} (${bytes(size_bytes)})`);
  const isShown = isText(version.openapi_schema) && prediction.urls["stream"] !== undefined;
  if (files.length === 0 && !isShown) terminal.line(outputText(ended.output, version.openapi_schema));
}

async function chosenVersion({ http }: Context, reference: string): Promise<{ model: ModelName; version: Version }> {
  const [named = "", id] = reference.split(":");
  const model = modelName(named);
  if (id !== undefined) return { model, version: await findVersion(http, model, id) };
  const { latest_version, state, state_reason } = await getModel(http, model);
  if (latest_version !== null) return { model, version: latest_version };
  const reason = state_reason ?? (state === "preparing" ? "it is being prepared" : "nothing was pushed yet");
  throw new CliFault(`${named} has no version to run: ${reason}.`);
}

/** Shows a text while it comes, and why a prediction waits until it does. */
async function untilEnd(
  { terminal, client }: Context,
  prediction: Prediction,
  version: Version,
  signal: AbortSignal,
): Promise<Prediction> {
  const startedAt = performance.now();
  const waiting = setInterval(() => {
    void client.predictions.get(prediction.id, { signal }).then(
      (now) => terminal.status(waitingLine(now, performance.now() - startedAt)),
      () => undefined,
    );
  }, WAITING_POLL_MS);
  try {
    if (isText(version.openapi_schema) && prediction.urls["stream"] !== undefined && !terminal.isJson) {
      let last = "";
      for await (const { event, data } of client.predictions.events(prediction, { signal })) {
        if (event !== "output") continue;
        clearInterval(waiting);
        terminal.raw(data);
        last = data;
      }
      if (last !== "" && !last.endsWith("\n")) terminal.raw("\n");
    }
    return await client.predictions.wait(prediction.id, { signal, timeoutMs: RUN_MS_MAX });
  } finally {
    clearInterval(waiting);
    terminal.status("");
  }
}

function waitingLine({ status, ...more }: Prediction, elapsedMs: number): string {
  const waiting = more["waiting_for"];
  const reason = typeof waiting === "object" && waiting !== null && "reason" in waiting ? ` (${waiting.reason})` : "";
  return `${status}${reason} … ${Math.round(elapsedMs / 1_000)} s`;
}

function requireSuccess({ id, status, error, logs }: Prediction): void {
  if (status === "succeeded") return;
  if (status !== "failed") throw new CliFault(`Prediction ${id} was ${status}.`);
  const tail = logs.trimEnd().split("\n").slice(-ERROR_LOG_LINES);
  const log = tail.join("") === "" ? "" : `\nIts last log lines:\n${tail.map((line) => `  ${line}`).join("\n")}`;
  throw new CliFault(`Prediction ${id} failed: ${error ?? "it said no reason"}${log}`);
}

async function saveFiles(
  { output }: Prediction,
  target: string | undefined,
  signal: AbortSignal,
): Promise<{ url: string; path: string; size_bytes: number }[]> {
  if (target === undefined) return [];
  const urls = fileUrls(output);
  if (urls.length === 0) throw new CliFault("The output has no files; leave -o out to see it.");
  const paths = filePaths(urls, target);
  const saved: { url: string; path: string; size_bytes: number }[] = [];
  for (const [index, url] of urls.entries()) {
    const path = paths[index] ?? target;
    saved.push({ url, path, size_bytes: await download(url, path, signal) });
  }
  return saved;
}
