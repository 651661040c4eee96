/** Shows a build while it goes on: each stage, and its log with the stage in front of every line. */
import { type Build, type BuildsClient, hasEnded } from "./builds-client.ts";
import { CliFault, INTERRUPTED_EXIT } from "./fault.ts";
import type { Terminal } from "./terminal.ts";

/** Why a build waits is asked for this often until its first event. */
const WAITING_POLL_MS = 3_000;

/** The build as it ended. */
export async function followBuild(
  terminal: Terminal,
  builds: BuildsClient,
  begun: Build,
  signal: AbortSignal,
): Promise<Build> {
  let told = "";
  const tellWaiting = ({ status, waiting_for }: Build): void => {
    const reason = status === "queued" || waiting_for !== null ? (waiting_for ?? "It waits for its turn.") : "";
    if (reason === "" || reason === told) return;
    told = reason;
    terminal.step("build", terminal.paint("dim", reason));
  };
  const waiting = setInterval(() => {
    builds.get(begun.id).then(tellWaiting, () => undefined);
  }, WAITING_POLL_MS);
  try {
    await showEvents(terminal, builds, begun.id, signal, () => clearInterval(waiting));
    const build = await builds.get(begun.id);
    if (hasEnded(build)) return build;
    throw new CliFault(
      `The stream of build ${begun.id} ended before the build. Look again: cogway logs ${begun.model}`,
    );
  } finally {
    clearInterval(waiting);
  }
}

async function showEvents(
  terminal: Terminal,
  builds: BuildsClient,
  id: string,
  signal: AbortSignal,
  onFirst: () => void,
): Promise<void> {
  let stage = "build";
  let partial = "";
  const endLine = (): void => {
    if (partial !== "") terminal.step(stage, partial);
    partial = "";
  };
  for await (const { event, data } of builds.events(id, signal)) {
    onFirst();
    if (event === "done") break;
    if (event === "status") {
      const next = stageOf(data);
      if (next === null || next === stage) continue;
      endLine();
      stage = next;
      terminal.json({ event: "stage", stage });
      terminal.step(stage, terminal.paint("bold", STAGE_TEXTS[stage] ?? stage));
    } else if (event === "logs") {
      terminal.json({ event: "logs", stage, data });
      const lines = (partial + data).split("\n");
      partial = lines.pop() ?? "";
      for (const line of lines) terminal.step(stage, line);
    }
  }
  endLine();
}

const STAGE_TEXTS: Record<string, string> = {
  fetch: "The origin takes the source",
  resolve: "Requirements are resolved",
  environment: "The environment is made",
  schema: "The schema is made",
  image: "The image is made",
};

/** `status` carries the build as it is then; null while it has no stage. */
function stageOf(data: string): string | null {
  return (JSON.parse(data) as Pick<Build, "stage">).stage;
}

/** One message for an end that is no success. */
export function requireBuilt({ id, model, status, error }: Build): void {
  if (status === "succeeded") return;
  if (status === "canceled") throw new CliFault(`Build ${id} was canceled.`, { exitCode: INTERRUPTED_EXIT });
  throw new CliFault(error ?? `Build ${id} failed; its log says why: cogway logs ${model}`);
}
