/** `cogway push`: from a folder to a version that runs. Each step can be done again: what arrived is not sent twice, and one source gives one version. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isCancel, select } from "@clack/prompts";
import { type Command, InvalidArgumentError, Option } from "commander";
import type { z } from "zod";
import type { ModelSchema } from "../../../../schema/api/models.ts";
import { CogwayError } from "../../../../schema/client/error.ts";
import type { Build, Prediction } from "../../../../schema/client/index.ts";
import { checkModel } from "../../../packaging/check-model.ts";
import { planSource, type SourcePlan } from "../../../packaging/pack.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { type Context, type ModelName, modelName, modelPath } from "../context.ts";
import { CliFault, INTERRUPTED_EXIT } from "../fault.ts";
import { followBuild, requireBuilt } from "../follow-build.ts";
import { curlLine, diffLines, diffStyle, layersText } from "../push-report.ts";
import { RegistryClient, RegistryFault } from "../registry-client.ts";
import { retried } from "../retry.ts";
import { outputText } from "../run-outputs.ts";
import { failedSetup } from "../setup-reports.ts";
import { bytes, duration, plural } from "../terminal.ts";
import { CONCURRENCY, CONCURRENCY_MAX, failureOf, type Uploaded, uploadBlobs } from "../upload.ts";
import { UploadView } from "../upload-progress.ts";
import { findVersion } from "../versions-client.ts";
import { modelFolder, requireNoFaults, showWarnings } from "./check.ts";

interface PushOptions extends CommonOptions {
  force?: true;
  public?: true;
  private?: true;
  detach?: true;
  test: boolean;
  concurrency: number;
}

/** A test prediction boots the version, which may load weights. */
const TEST_MS_MAX = 900_000;
const TEST_OUTPUT_CHARACTERS_MAX = 500;

export function pushCommand(runner: Runner): Command {
  return newCommand("push", "Send a model's folder, have it built, and see its version run", [
    "cogway push ada/my-model                   # the folder you stand in",
    "cogway push ./my-model ada/my-model --public",
    "cogway push ./my-model ada/my-model --detach # do not wait for the build",
    "cogway push ./my-model ada/my-model --json | jq -c .",
  ])
    .usage("[options] [dir] <model>")
    .argument("[dir]", 'folder with a cog.yaml (default: ".")')
    .argument("[model]", "owner/name; it is made where there is none")
    .option("--force", "make the version even where it breaks callers of a stable model")
    .addOption(new Option("--public", "a model that is made now is for everybody").conflicts("private"))
    .option("--private", "a model that is made now is for its owner alone (default)")
    .option("--detach", "do not wait for the build")
    .option("--no-test", "do not wait for the first prediction")
    .option("--concurrency <n>", `blobs that are sent at once, 1 to ${CONCURRENCY_MAX}`, concurrency, CONCURRENCY)
    .action(action<[string | undefined, string | undefined], PushOptions>(runner, push));
}

function concurrency(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= CONCURRENCY_MAX) return value;
  throw new InvalidArgumentError(`It must be a number from 1 to ${CONCURRENCY_MAX}.`);
}

async function push(
  context: Context,
  first: string | undefined,
  second: string | undefined,
  options: PushOptions,
): Promise<void> {
  if (first === undefined) throw new CliFault("Say which model it is: cogway push [dir] owner/name");
  const [dir, reference] = second === undefined ? [".", first] : [first, second];
  const model = modelName(reference);
  const { terminal, client } = context;
  const folder = modelFolder(dir);
  const check = checkModel(folder);
  showWarnings(terminal, check);
  requireNoFaults(folder, check);
  terminal.json({ event: "checked", warnings: check.warnings });
  await ensureModel(context, model, options);
  const { plan, uploaded } = await send(context, folder, model, options);
  const begun = await client.builds.create(reference, {
    manifest: plan.manifest_digest,
    force: options.force === true,
  });
  terminal.json({ event: "build", id: begun.id });
  if (options.detach) {
    terminal.line(`Build ${begun.id} goes on without you. Follow it: cogway logs ${begun.model}`);
    return;
  }
  const build = await watch(context, begun);
  for (const warning of build.warnings) terminal.line(`${terminal.paint("yellow", "warning")} ${warning}`);
  if (build.status !== "succeeded") {
    terminal.json({ event: "failed", build });
    showDiff(context, build);
  }
  requireBuilt(build);
  const test = options.test ? await testPrediction(context, build) : null;
  if (test !== null) await showTest(context, model, test);
  report(context, folder, model, build, uploaded, test);
  if (test !== null && test.status !== "succeeded") throw await exampleFault(context, model, test);
}

/** The version is there all the same: it is for its author to say what shall become of it. */
async function exampleFault({ http }: Context, model: ModelName, test: Prediction): Promise<CliFault> {
  const setup =
    test.status === "failed" && test.started_at === null ? await failedSetup(http, model, test.version) : null;
  const reason = setup?.reason ?? test.error?.trimEnd() ?? `it was ${test.status}`;
  const where = setup === null ? test.id : `${model.owner}/${model.name}`;
  return new CliFault(`The version is made, but its example fails: ${reason}\nIts log: cogway logs ${where}`);
}

/** Made here where it is missing, so that the registry has a repository for it. */
async function ensureModel({ http, terminal }: Context, model: ModelName, options: PushOptions): Promise<void> {
  try {
    await http.json<z.infer<typeof ModelSchema>>("GET", modelPath(model));
    return;
  } catch (error) {
    if (!(error instanceof CogwayError) || error.status !== 404) throw error;
  }
  const visibility = options.public ? "public" : "private";
  const body = { ...model, visibility, hardware: "cpu" };
  const made = await http.json<z.infer<typeof ModelSchema>>("POST", "/v1/models", { body });
  terminal.json({ event: "model", owner: made.owner, name: made.name, visibility });
  terminal.step("check", `${made.owner}/${made.name} is new: a ${visibility} model`);
}

async function send(
  { terminal, connection, interrupts }: Context,
  folder: string,
  model: ModelName,
  options: PushOptions,
): Promise<{ plan: SourcePlan; uploaded: Uploaded }> {
  const abort = new AbortController();
  const interrupt = (): void =>
    abort.abort(
      new CliFault("Interrupted. Push again to go on: what arrived is not sent twice.", { exitCode: INTERRUPTED_EXIT }),
    );
  return interrupts.during(interrupt, async () => {
    const startedAt = performance.now();
    const onFile = (path: string): void => terminal.status(`Reading ${path} …`);
    const plan = await planSource(folder, { signal: abort.signal, onFile });
    const size = plan.files.reduce((sum, { size_bytes }) => sum + size_bytes, 0);
    terminal.step(
      "pack",
      `${plural(plan.files.length, "file")}, ${bytes(size)}, in ${plural(plan.manifest.layers.length, "layer")}`,
    );
    const registry = new RegistryClient(connection, model, abort.signal);
    const view = new UploadView(terminal, plan.blobs);
    const uploaded = await uploadBlobs(registry, plan, view, { concurrency: options.concurrency, abort }).finally(() =>
      view.end(),
    );
    const { manifest, manifest_digest, manifest_bytes } = plan;
    await retried(() => registry.putManifest(manifest_digest, manifest.mediaType, manifest_bytes), failureOf, {
      signal: abort.signal,
    }).catch((error: unknown) => {
      if (!(error instanceof RegistryFault)) throw error;
      throw new CliFault(`The manifest was not stored: ${error.message}. Push again: what arrived is not sent twice.`);
    });
    terminal.json({ event: "uploaded", manifest: manifest_digest, ...uploaded });
    terminal.step("upload", `${layersText(uploaded)} (${duration(performance.now() - startedAt)})`);
    return { plan, uploaded };
  });
}

/** Follows the build; Ctrl-C asks what shall become of it, or cancels it where nobody can answer. */
async function watch({ terminal, client, interrupts }: Context, begun: Build): Promise<Build> {
  const abort = new AbortController();
  const leave = (): void =>
    abort.abort(
      new CliFault(`Build ${begun.id} goes on without you. Follow it: cogway logs ${begun.model}`, {
        exitCode: INTERRUPTED_EXIT,
      }),
    );
  // The stream then ends with the build.
  const cancel = (): void =>
    void client.builds.cancel(begun.model, begun.id).catch((error: unknown) => abort.abort(error));
  let isAsking = false;
  const ask = async (): Promise<void> => {
    isAsking = true;
    const choice = await select({
      message: `Build ${begun.id} goes on`,
      options: [
        { value: "watch", label: "Keep watching" },
        { value: "leave", label: "Leave it running" },
        { value: "cancel", label: "Cancel it" },
      ],
    });
    isAsking = false;
    if (choice === "cancel") cancel();
    else if (isCancel(choice) || choice === "leave") leave();
  };
  const interrupt = (): void => {
    if (!terminal.isInteractive) cancel();
    else if (isAsking) leave();
    else void ask();
  };
  return interrupts.during(interrupt, () => followBuild(terminal, client, begun, abort.signal));
}

/** Null where the version has no example, or its prediction takes longer than anybody waits. */
async function testPrediction(context: Context, build: Build): Promise<Prediction | null> {
  const { terminal, client } = context;
  if (build.test_prediction === null) return null;
  terminal.step("test", "The example runs");
  try {
    return await client.predictions.wait(build.test_prediction, { timeoutMs: TEST_MS_MAX });
  } catch (error) {
    if (!(error instanceof CogwayError) || error.code !== "client.timeout") throw error;
    terminal.step("test", `It still runs: cogway logs ${build.test_prediction}`);
    return null;
  }
}

async function showTest(
  { terminal, http }: Context,
  model: ModelName,
  { version, status, output }: Prediction,
): Promise<void> {
  if (status !== "succeeded") return terminal.step("test", terminal.paint("red", status));
  const { openapi_schema } = await findVersion(http, model, version);
  const text = outputText(output, openapi_schema, 0);
  const shown = text.length > TEST_OUTPUT_CHARACTERS_MAX ? `${text.slice(0, TEST_OUTPUT_CHARACTERS_MAX)}…` : text;
  terminal.step("test", `${terminal.paint("green", status)} ${shown}`);
}

function report(
  context: Context,
  folder: string,
  model: ModelName,
  build: Build,
  uploaded: Uploaded,
  test: Prediction | null,
): void {
  const { terminal, connection } = context;
  const curl = curlLine(connection.url, model, exampleInput(folder));
  const page = `${connection.url}/${model.owner}/${model.name}`;
  terminal.json({
    event: "done",
    model: `${model.owner}/${model.name}`,
    version: build.version,
    build: build.id,
    ...uploaded,
    schema_diff: build.schema_diff,
    warnings: build.warnings,
    test_prediction: test,
    url: page,
    curl,
  });
  showDiff(context, build);
  terminal.line();
  terminal.line(`${terminal.paint("green", "✓")} ${model.owner}/${model.name}:${build.version}`);
  terminal.line(`  ${layersText(uploaded)}`);
  terminal.line(`  ${page}`);
  terminal.line();
  terminal.line(curl);
}

function showDiff({ terminal }: Context, { schema_diff }: Build): void {
  for (const { kind, text } of diffLines(schema_diff)) {
    terminal.step("schema", kind === "same" ? text : `${terminal.paint(diffStyle(kind), kind)} ${text}`);
  }
}

function exampleInput(folder: string): Record<string, unknown> {
  const path = join(folder, "example.json");
  if (!existsSync(path)) return {};
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch {
    return {};
  }
}
