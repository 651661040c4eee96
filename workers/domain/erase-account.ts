/**
 * Deletes an account: its tokens die at once, then everything of it goes, a bounded piece with each call. Each piece may be repeated, so a call that broke is
 * made again, with the last cursor or from the start. What stays: the ledger with its list of predictions (no inputs, no outputs), as long as the law asks for
 * books, the audit log, and the account's id and username, so that nobody else becomes it.
 */
import { accountStub, batchStub, deploymentStub, predictionStub, repositoryStub } from "../../durable-objects/stubs.ts";
import { predictionObjectName } from "../../schema/ids.ts";
import { withoutError } from "../../schema/prediction-lifecycle.ts";
import type { Edge } from "../env.ts";
import {
  type AccountRow,
  beginDeletion,
  eraseModel,
  finishDeletion,
  firstDeployments,
  firstModels,
  versionsOf,
} from "../storage/admin.ts";
import { hasWeights } from "../storage/catalog-writes.ts";
import { deleteDeployment, readDeployment } from "../storage/deployments.ts";
import { findVersion } from "../storage/models.ts";
import { saveTerms } from "../storage/terms.ts";
import { catalogChanged } from "./catalog-changed.ts";
import { removeCompileCaches } from "./compile-caches.ts";
import { packageKey } from "./publish-version.ts";
import { accountTerms } from "./rates.ts";
import { deploymentKey, deploymentSpec } from "./run-spec.ts";

export const STEPS = ["predictions", "trainings", "batches", "files", "deployments", "models", "account"] as const;
export type Step = (typeof STEPS)[number];

/** Things of one call: a prediction that runs takes up to 8 s to stop, and those of a page stop together. */
const PAGE_ROWS = 50;
/** Inputs of a batch in one call: it is over by then, and nothing of them runs. */
const BATCH_PAGE_ROWS = 200;

/** Where the next call goes on. */
export interface Position {
  step: Step;
  /** of a list that keeps its rows */
  before: { created_at: number; prediction_id: string } | null;
  /** of the batch after `before`: the index of its next input. Absent: its first */
  input?: number | undefined;
}

export interface Piece {
  removed: number;
  /** null: all is gone */
  next: Position | null;
  /** what keeps this step from its end */
  waiting_for: string | null;
}

export async function eraseNext(edge: Edge, account: AccountRow, position: Position | null): Promise<Piece> {
  if (position === null) await beginDeletion(edge.env.DB, account.id, Date.now());
  const at = position ?? { step: "predictions", before: null };
  switch (at.step) {
    case "predictions":
      return eraseListed(edge, account.id, "prediction", at);
    case "trainings":
      return eraseListed(edge, account.id, "training", at);
    case "batches":
      return eraseBatch(edge, account.id, at);
    case "files":
      return eraseFiles(edge, account.id, at);
    case "deployments":
      return eraseDeployments(edge, account.username, at);
    case "models":
      return eraseModels(edge, account.username, at);
    case "account":
      return eraseRow(edge, account.id);
  }
}

/** What is agreed about prices stays, since bills rest on it; nobody is called any more. */
async function eraseRow(edge: Edge, accountId: string): Promise<Piece> {
  const { terms } = await saveTerms(edge.env.DB, accountId, { alert_webhook: null });
  await accountStub(edge.env, accountId).setTerms(accountTerms(edge.settings, terms));
  await finishDeletion(edge.env.DB, accountId);
  return { removed: 1, next: null, waiting_for: null };
}

function stepAfter({ step }: Position, removed: number): Piece {
  const next = STEPS[STEPS.indexOf(step) + 1];
  return { removed, next: next === undefined ? null : { step: next, before: null }, waiting_for: null };
}

async function eraseListed(
  edge: Edge,
  accountId: string,
  kind: "prediction" | "training",
  at: Position,
): Promise<Piece> {
  const account = accountStub(edge.env, accountId);
  const { rows, more } = await account.list({ kind, limit: PAGE_ROWS, before: at.before });
  const ids = rows.map(({ prediction_id }) => prediction_id);
  const left = await erasePredictions(edge, accountId, ids);
  if (left.length > 0) {
    const waiting_for = `${left.length} of kind ${kind} that still end`;
    return { removed: ids.length - left.length, next: at, waiting_for };
  }
  // The list remembers longer than the predictions do. A copy whose data is there still is replaced by its prediction, which forgot the words too.
  const remembered = rows.flatMap(({ document }) => (document?.data_removed === true ? [document] : []));
  if (remembered.length > 0) await account.removeData(remembered.map(withoutError));
  const last = rows.at(-1);
  if (!more || last === undefined) return stepAfter(at, ids.length);
  const before = { created_at: last.created_at, prediction_id: last.prediction_id };
  return { removed: ids.length, next: { ...at, before }, waiting_for: null };
}

/** Answers those that have not ended yet. */
async function erasePredictions(edge: Edge, accountId: string, ids: string[]): Promise<string[]> {
  const groups = [...Map.groupBy(ids, predictionObjectName).values()];
  const left = await Promise.all(
    groups.map((group) => predictionStub(edge.env, group[0] ?? "").erase(group, accountId)),
  );
  return left.flat();
}

/** One batch: canceled first, then the predictions of its inputs a page at a time, then its results. */
async function eraseBatch(edge: Edge, accountId: string, at: Position): Promise<Piece> {
  const account = accountStub(edge.env, accountId);
  const { rows, more } = await account.list({ kind: "batch", limit: 1, before: at.before });
  const row = rows[0];
  if (row === undefined) return stepAfter(at, 0);
  const batch = batchStub(edge.env, row.prediction_id);
  await batch.cancel(accountId);
  const { ids, next } = await batch.predictions(accountId, at.input ?? 0, BATCH_PAGE_ROWS);
  const left = await erasePredictions(edge, accountId, ids);
  const removed = ids.length - left.length;
  if (left.length > 0) return { removed, next: at, waiting_for: `${left.length} inputs of a batch that still end` };
  if (next !== null) return { removed, next: { ...at, input: next }, waiting_for: null };
  if (!(await batch.erase(accountId))) return { removed, next: at, waiting_for: "a batch that still ends" };
  if (!more) return stepAfter(at, removed + 1);
  const before = { created_at: row.created_at, prediction_id: row.prediction_id };
  return { removed: removed + 1, next: { ...at, before, input: undefined }, waiting_for: null };
}

async function eraseFiles(edge: Edge, accountId: string, at: Position): Promise<Piece> {
  const account = accountStub(edge.env, accountId);
  const { files, more } = await account.files({ limit: PAGE_ROWS });
  for (const { id } of files) await account.removeFile(id, "ready");
  return more ? { removed: files.length, next: at, waiting_for: null } : stepAfter(at, files.length);
}

async function eraseDeployments(edge: Edge, owner: string, at: Position): Promise<Piece> {
  const { env } = edge;
  const found = await firstDeployments(env.DB, owner, PAGE_ROWS);
  let removed = 0;
  let waits = 0;
  for (const { name } of found) {
    const stub = deploymentStub(env, deploymentKey(owner, name));
    if ((await stub.retire(0)).retired) {
      await deleteDeployment(env.DB, owner, name);
      removed += 1;
      continue;
    }
    // Disabled by a release of its own: what runs or waits is canceled, instances go.
    const release = (await readDeployment(env.DB, owner, name))?.release;
    const [modelOwner = "", modelName = ""] = release?.model.split("/") ?? [];
    const version =
      release === undefined ? null : await findVersion(env.DB, modelOwner, modelName, release.version, edge.later);
    if (release === undefined || version === null) {
      await deleteDeployment(env.DB, owner, name);
      removed += 1;
      continue;
    }
    const disabled = { ...release, number: release.number + 1, min_instances: 0, max_instances: 0 };
    await stub.configure(await deploymentSpec(edge, version, disabled));
    waits += 1;
  }
  if (waits > 0) return { removed, next: at, waiting_for: `${waits} deployments whose instances still end` };
  return found.length === PAGE_ROWS ? { removed, next: at, waiting_for: null } : stepAfter(at, removed);
}

async function eraseModels(edge: Edge, owner: string, at: Position): Promise<Piece> {
  const { env } = edge;
  const found = await firstModels(env.DB, owner, PAGE_ROWS);
  for (const { name } of found) {
    await repositoryStub(env, `${owner}/${name}`).empty();
    // Its rows go last: a call that broke before finds its versions again.
    for (const { id, weights } of await versionsOf(env.DB, owner, name)) {
      await env.FILES.delete(packageKey(owner, name, id));
      await removeCompileCaches(env.FILES, id);
      // Versions of equal weights share one object.
      if (weights !== null && !(await hasWeights(env.DB, weights.key, { owner, name }))) {
        await env.FILES.delete(weights.key);
      }
    }
    await eraseModel(env.DB, owner, name);
  }
  catalogChanged(
    edge,
    found.map(({ name }) => `${owner}/${name}`),
  );
  return found.length === PAGE_ROWS
    ? { removed: found.length, next: at, waiting_for: null }
    : stepAfter(at, found.length);
}
