/** Shows a build while it goes on: each stage, why it waits, and its log with the stage in front of every line. */
import type { Build, Cogway } from "../../../schema/client/index.ts";
import { CliFault, INTERRUPTED_EXIT } from "./fault.ts";
import type { Terminal } from "./terminal.ts";

const STAGE_TEXTS: Record<string, string> = {
  fetch: "An origin takes the source",
  resolve: "Requirements are resolved",
  environment: "The environment is made",
  schema: "The schema is made",
  image: "The image is made",
};

/** The build as it ended. */
export async function followBuild(
  terminal: Terminal,
  client: Cogway,
  { id, model }: Build,
  signal: AbortSignal,
): Promise<Build> {
  const view = new BuildView(terminal);
  for await (const { event, data } of client.builds.events(model, id, { signal })) {
    if (event === "status") view.status(JSON.parse(data) as Pick<Build, "stage" | "waiting_for">);
    else if (event === "logs") view.log(data);
  }
  view.end();
  return client.builds.get(model, id, { signal });
}

class BuildView {
  readonly #terminal: Terminal;
  #stage: string | null = null;
  /** reasons that were told: a build may go back and forth between some */
  readonly #reasons = new Set<string>();
  /** of a line that has not ended */
  #partial = "";

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  status({ stage, waiting_for }: Pick<Build, "stage" | "waiting_for">): void {
    const terminal = this.#terminal;
    if (waiting_for !== null && !this.#reasons.has(waiting_for)) {
      this.#reasons.add(waiting_for);
      terminal.json({ event: "waiting", reason: waiting_for });
      terminal.step("build", terminal.paint("dim", waiting_for));
    }
    if (stage === null || stage === this.#stage) return;
    this.end();
    this.#stage = stage;
    terminal.json({ event: "stage", stage });
    terminal.step(stage, terminal.paint("bold", STAGE_TEXTS[stage] ?? stage));
  }

  log(data: string): void {
    this.#terminal.json({ event: "logs", stage: this.#stage, data });
    const lines = (this.#partial + data).split("\n");
    this.#partial = lines.pop() ?? "";
    for (const line of lines) this.#terminal.step(this.#stage ?? "build", line);
  }

  end(): void {
    if (this.#partial !== "") this.#terminal.step(this.#stage ?? "build", this.#partial);
    this.#partial = "";
  }
}

/** One message for an end that is no success. */
export function requireBuilt({ id, model, status, error }: Build): void {
  if (status === "succeeded") return;
  if (status === "canceled")
    throw new CliFault(`Build ${id} was canceled. Push again to begin another.`, { exitCode: INTERRUPTED_EXIT });
  throw new CliFault(error ?? `Build ${id} failed; its log says why: cogway logs ${model}`);
}
