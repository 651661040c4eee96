/** How a version has run so far, from the counter of its model: up to some ten seconds old. */
import { runCounter } from "../../durable-objects/stubs.ts";
import type { RunHistory } from "../../schema/run-history.ts";
import type { Edge } from "../env.ts";
import { Memo } from "../storage/memo.ts";

/** Counters are told every 10 s, so a younger answer tells little that is new. */
const HISTORY_LIFE_MS = 5_000;
const HISTORIES_MAX = 10_000;

const histories = new Memo<RunHistory | null>(HISTORY_LIFE_MS, HISTORIES_MAX);

/** Null: nothing of it ended yet. */
export function versionHistory(edge: Edge, owner: string, name: string, versionId: string): Promise<RunHistory | null> {
  const { env, later } = edge;
  const load = () => runCounter(env, `${owner}/${name}`).history(versionId);
  return histories.get(`${owner}/${name}:${versionId}`, load, later);
}
