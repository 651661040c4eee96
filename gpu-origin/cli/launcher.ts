/** Starts the parts in order, supervises them, and ends them in order. It owns no state of Cogway's: each part may die at any moment and is started again. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Server } from "node:tls";
import { execa } from "execa";
import type { Progress } from "../log.ts";
import { buildAll } from "./build.ts";
import { Edge } from "./edge.ts";
import { type Example, exampleOf, predict, untilHealthy } from "./first-prediction.ts";
import { LogFile } from "./log-file.ts";
import { OriginProcess } from "./origin-process.ts";
import { freePort, originName, ProcessFiles, requireFreePort } from "./processes.ts";
import { progress, type Step } from "./progress.ts";
import { cidrs, type OriginSettings, type Settings, SetupFault } from "./settings.ts";
import { localCertificate, startTlsFront } from "./tls.ts";
import { welcome } from "./welcome.ts";

/** Everything is gone by then, whatever hangs. */
const END_DEADLINE_MS = 39_000;
const PYTHON_TIMEOUT_MS = 20_000;
/** A killed process counts as ended while its last threads still hold its sockets. */
const PORT_FREED_MS = 5_000;

export class Launcher {
  readonly #settings: Settings;
  readonly #files: ProcessFiles;
  readonly #ending = new AbortController();
  /** as it was at the start: Miniflare's own variables are not for models */
  readonly #env = { ...process.env };
  readonly #models = new ModelProgress();
  #edge: Edge | null = null;
  readonly #origins: OriginProcess[] = [];
  #tlsFront: Server | null = null;
  #authorityPath: string | null = null;
  readonly #faulted = Promise.withResolvers<never>();
  #ended: Promise<void> | null = null;

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#files = new ProcessFiles(settings.dataDir);
    this.#faulted.promise.catch(() => {});
  }

  /** Resolves when Cogway serves. Rejects with a SetupFault, also when it is ended meanwhile. */
  async start(waitsForPrediction: boolean): Promise<void> {
    const startedAt = performance.now();
    const settings = this.#settings;
    const left = await this.#files.takeOver();
    if (left > 0) progress.line(`Ended ${left === 1 ? "a process" : `${left} processes`} of an earlier start.`);
    const patienceMs = left > 0 ? PORT_FREED_MS : 0;
    await requireFreePort(settings.port, "COGWAY_PORT", patienceMs);
    for (const { port } of settings.origins) await requireFreePort(port, "COGWAY_ORIGIN_PORT", patienceMs);
    if (settings.driver === "process") {
      await requirePython();
      progress.line("Models run as processes of this host, which keeps nothing apart: only the operator's run here.");
    }
    await buildAll(this.#ending.signal);
    const edgePort = await this.#startEdge();
    this.#ending.signal.throwIfAborted();
    for (const [index, origin] of settings.origins.entries()) this.#startOrigin(origin, index, edgePort);
    const url = `http://127.0.0.1:${edgePort}`;
    const step = progress.begin("Waiting until predictions can run");
    await untilHealthy(url, this.#ending.signal, (reason) => step.detail(reason));
    step.end(`Cogway answers at ${settings.localUrl}`);
    const example = waitsForPrediction ? await this.#firstPrediction(url) : null;
    progress.line(welcome(settings, example ?? this.#anyExample(), this.#authorityPath, startedAt));
    if (!this.#models.isDone) progress.line("More models are being prepared meanwhile.");
    this.#models.isQuiet = true;
  }

  /** Returns the port where workerd listens in plain HTTP; with TLS that is one inside. */
  async #startEdge(): Promise<number> {
    const settings = this.#settings;
    const step = progress.begin("Starting the edge");
    const port = settings.isTls ? await freePort() : settings.port;
    this.#edge = new Edge(
      {
        port,
        publicUrl: settings.publicUrl,
        retention: settings.retention,
        canaryInterval: settings.canaryInterval,
        laneLeasesPerS: settings.laneLeasesPerS,
        uploadRelayUrl: settings.uploadRelayUrl,
        otlp: settings.otlp,
        allowPrivateCidrs: cidrs(settings.allowPrivateUrls),
        signingSecret: settings.signingSecret,
        joinTokensSha256: settings.origins.map(({ joinToken }) => createHash("sha256").update(joinToken).digest("hex")),
        stateDir: join(settings.dataDir, "edge"),
        processFile: this.#files.path("workerd"),
      },
      new LogFile(join(settings.dataDir, "logs", "edge.log")),
    );
    await this.#edge.start(settings.token);
    if (settings.isTls) {
      const certificate = await localCertificate(settings.dataDir);
      this.#authorityPath = certificate.authorityPath;
      this.#tlsFront = await startTlsFront(settings.port, port, certificate);
    }
    step.end("Started the edge");
    return port;
  }

  #startOrigin({ port, url, dataDir, joinToken }: OriginSettings, index: number, edgePort: number): void {
    const settings = this.#settings;
    const name = originName(index);
    const origin = new OriginProcess({
      env: {
        ...this.#env,
        COGWAY_ORIGIN_PORT: String(port),
        ...(url === undefined ? {} : { COGWAY_ORIGIN_URL: url }),
        COGWAY_EDGE_URL: settings.edgeUrl ?? `http://127.0.0.1:${edgePort}`,
        COGWAY_PUBLIC_URL: settings.publicUrl,
        COGWAY_DATA: dataDir,
        COGWAY_CACHE: settings.cacheDir ?? join(settings.dataDir, "cache"),
        COGWAY_HOST_PART: `${index + 1}/${settings.origins.length}`,
        COGWAY_MODEL_DIRS: JSON.stringify(settings.modelDirs),
        COGWAY_MODELS: settings.modelsAreExplicit ? settings.modelDirs.join(",") : "",
        COGWAY_JOIN_TOKEN: joinToken,
        COGWAY_METRICS_PORT: settings.metricsPort === undefined ? "" : String(settings.metricsPort + index),
        COGWAY_TOKEN: "",
      },
      log: new LogFile(join(settings.dataDir, "logs", `${name}.log`)),
      onStart: (pid) => this.#files.write(name, pid),
      // All prepare the same models; the first one tells of them.
      onProgress: (each) => (index === 0 ? this.#models.take(each) : undefined),
      onRestart: (pauseMs, how) => {
        progress.warn(`${name}: ${how}; it is started again in ${(pauseMs / 1000).toFixed(1)} s.`);
      },
      onFatal: (detail) => this.#faulted.reject(new SetupFault(detail)),
    });
    this.#origins.push(origin);
    origin.start();
  }

  /** The example that ran; null where no model that is ready has one, or none of them succeeded. */
  async #firstPrediction(url: string): Promise<Example | null> {
    const examples = examplesOf(this.#settings.modelDirs);
    for (let tried = 0; ; tried++) {
      const name = await this.#models.next(tried, this.#ending.signal);
      if (name === null) return null;
      const example = examples.get(name);
      // Without any example to run, a model that is ready is all that can be waited for.
      if (example === undefined && examples.size === 0) return null;
      if (example === undefined) continue;
      const step = progress.begin(`Running a first prediction with cogway/${name}`);
      const result = await predict(url, this.#settings.token, example, this.#ending.signal);
      if (result.ok) {
        step.end(`cogway/${name} ran a first prediction`);
        return example;
      }
      step.end();
      progress.warn(`The example of cogway/${name} did not succeed: ${result.detail}`);
    }
  }

  #anyExample(): Example | null {
    const examples = examplesOf(this.#settings.modelDirs);
    return this.#models.ready.map((name) => examples.get(name)).find((example) => example !== undefined) ?? null;
  }

  /** Rejects when the origin found something that its owner has to change. Never resolves. */
  get faulted(): Promise<never> {
    return this.#faulted.promise;
  }

  get isEnding(): boolean {
    return this.#ended !== null;
  }

  /** Drains and ends everything: the origins first, while the edge can still take its last events. Safe to call again. */
  end(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    setTimeout(() => void this.#killAll().finally(() => process.exit(1)), END_DEADLINE_MS).unref();
    if (this.#files.isOwner) this.#files.markEnding();
    this.#models.isQuiet = true;
    this.#ending.abort(new SetupFault("Interrupted."));
    const step = this.#origins.length === 0 ? null : progress.begin("Ending: predictions that run get up to 30 s");
    await Promise.all(this.#origins.map((origin) => origin.stop()));
    this.#tlsFront?.close();
    await this.#edge?.stop();
    await this.#killAll();
    step?.end("Ended");
  }

  async #killAll(): Promise<void> {
    if (!this.#files.isOwner) return;
    await this.#files.killAll();
    this.#files.remove("launcher");
  }
}

/** How the models fare, by what the origin says. */
class ModelProgress {
  readonly ready: string[] = [];
  isDone = false;
  /** Cogway serves: only what is new is said, in one line each */
  isQuiet = false;
  #step: Step | null = null;
  #wake: () => void = () => {};

  take({ step, model = "", detail, done, total }: Progress): void {
    if (step === "model.preparing" && !this.isQuiet) {
      this.#step = progress.begin(`Preparing cogway/${model} (${(done ?? 0) + 1} of ${total})`);
    }
    if (step === "environment") this.#step?.detail(detail ?? "");
    if (step === "schema") this.#step?.detail("reading its types");
    if (step === "warning") progress.warn(model === "" ? (detail ?? "") : `cogway/${model}: ${detail}`);
    if (step === "model.failed") {
      this.#endStep();
      progress.warn(`cogway/${model} cannot run: ${detail}`);
    }
    if (step === "model.ready" && !this.ready.includes(model)) {
      this.#endStep(`cogway/${model} is ready`);
      this.ready.push(model);
    }
    if (step === "models.done") this.isDone = true;
    this.#wake();
  }

  #endStep(text?: string): void {
    if (this.#step === null && text !== undefined) progress.line(text);
    this.#step?.end(text);
    this.#step = null;
  }

  /** The `index`-th model that became ready; null when there will be no such. */
  async next(index: number, signal: AbortSignal): Promise<string | null> {
    for (;;) {
      signal.throwIfAborted();
      const name = this.ready[index];
      if (name !== undefined) return name;
      if (this.isDone) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }
}

function examplesOf(folders: string[]): Map<string, Example> {
  const examples = folders.map(exampleOf).filter((example) => example !== null);
  return new Map(examples.map((example) => [example.name, example]));
}

/** Models need it; said before anything long is done. uv brings what venv needs, so there it may be missing. */
async function requirePython(): Promise<void> {
  const code =
    "import sys, venv, shutil; assert sys.version_info >= (3, 10); shutil.which('uv') or __import__('ensurepip')";
  for (const name of ["python3", "python"]) {
    const found = await execa(name, ["-c", code], { reject: false, timeout: PYTHON_TIMEOUT_MS });
    if (found.exitCode === 0) return;
  }
  throw new SetupFault(
    "Python 3.10 or newer with venv is needed to run models, and none was found on PATH (Debian: apt-get install python3 python3-venv).",
  );
}
