/** A build's stages in words, and how long each took. Pure; `now` in epoch milliseconds. */
import type { Build } from "./api.ts";
import { words } from "./format.ts";

const STAGES: Record<string, string> = {
  fetch: "Take the source",
  resolve: "Resolve requirements",
  environment: "Make the environment",
  schema: "Make the schema",
  image: "Make the image",
};

const stageName = (name: string) => STAGES[name] ?? words(name);

/** What it does just now, in one line. */
export function stageInWords(build: Pick<Build, "stage" | "waiting_for">): string {
  return build.waiting_for ?? (build.stage === null ? "Waiting for an origin" : stageName(build.stage));
}

export interface StageTime {
  name: string;
  state: "done" | "now" | "failed" | "canceled";
  took_ms: number;
}

/** The wait first, then each stage that has begun. */
export function stageTimes(build: Build, now: number): StageTime[] {
  const starts = build.stages.map(({ name, started_at }) => ({ name: stageName(name), at: Date.parse(started_at) }));
  const all = [{ name: "Wait for an origin", at: Date.parse(build.created_at) }, ...starts];
  const isOver = build.completed_at !== null;
  const end = build.completed_at === null ? now : Date.parse(build.completed_at);
  return all.map(({ name, at }, index) => {
    const next = all[index + 1];
    const last = !isOver ? "now" : build.status === "failed" || build.status === "canceled" ? build.status : "done";
    return { name, state: next === undefined ? last : "done", took_ms: Math.max(0, (next?.at ?? end) - at) };
  });
}
