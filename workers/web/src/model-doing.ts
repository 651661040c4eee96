/** What a model does right now, in one word and one line of figures. Pure. */
import type { ModelStatus } from "./api.ts";
import { count } from "./format.ts";

export type Doing = "online" | "booting" | "queued" | "idle" | "preparing" | "failed" | "paused";

type Figures = Pick<ModelStatus, "state" | "queue_length" | "running" | "instances">;

/** What stops it comes first; then what serves, what will, and what waits for either. */
export function doingOf({ state, queue_length, instances }: Figures): Doing {
  if (state !== "ready") return state;
  if ((instances["ready"] ?? 0) > 0) return "online";
  if ((instances["boot"] ?? 0) + (instances["setup"] ?? 0) > 0) return "booting";
  return queue_length > 0 ? "queued" : "idle";
}

/** Something in it changes soon by itself. */
export function isMoving(model: Figures): boolean {
  return model.queue_length > 0 || model.running > 0 || doingOf(model) === "booting";
}

const INSTANCE_WORDS: [state: string, word: string][] = [
  ["ready", "ready"],
  ["setup", "setting up"],
  ["boot", "booting"],
  ["paused", "paused in memory"],
  ["draining", "draining"],
];

/** `2 ready, 1 booting`; states of later releases by their own names. */
export function instancesInWords(instances: ModelStatus["instances"]): string {
  const known = new Set(INSTANCE_WORDS.map(([state]) => state));
  const others = Object.keys(instances).filter((state) => !known.has(state));
  const parts = [...INSTANCE_WORDS, ...others.map((state) => [state, state] as const)].flatMap(([state, word]) =>
    (instances[state] ?? 0) === 0 ? [] : [`${instances[state]} ${word}`],
  );
  return parts.length === 0 ? "no instance" : parts.join(", ");
}

export const waitingInWords = (n: number): string => `${n.toLocaleString("en-US")} waiting`;
export const runningInWords = (n: number): string => `${n.toLocaleString("en-US")} running`;

/** What all of `models` do together. */
export function totalInWords(models: Figures[]): string {
  const sum = (of: (model: Figures) => number): number => models.reduce((total, model) => total + of(model), 0);
  const online = models.filter((model) => doingOf(model) === "online").length;
  return [
    count(models.length, "model", "models"),
    `${online} online`,
    waitingInWords(sum(({ queue_length }) => queue_length)),
    runningInWords(sum(({ running }) => running)),
  ].join(", ");
}
