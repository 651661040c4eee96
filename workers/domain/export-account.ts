/** Everything that is kept of an account, as lines of JSON: `{"kind": …, …}`. Read a page at a time while it is sent, so its size does not matter. */
import { accountStub, auditStub, predictionStub } from "../../durable-objects/stubs.ts";
import { predictionObjectName } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { tokenId } from "../../schema/tokens.ts";
import type { Edge } from "../env.ts";
import { type AccountRow, deploymentsOf, membershipsOf, modelsOf, tokensOf, versionsOf } from "../storage/admin.ts";
import { showPrediction } from "./show-prediction.ts";

/** Rows that are read at once. */
const PAGE_ROWS = 100;

export function exportAccount(edge: Edge, account: AccountRow): ReadableStream<Uint8Array> {
  const lines = exported(edge, account);
  const encoder = new TextEncoder();
  return new ReadableStream<Uint8Array>({
    // Asked only when the reader has room for more.
    async pull(controller) {
      const { done, value } = await lines.next();
      if (done === true) controller.close();
      else controller.enqueue(encoder.encode(value.map((row) => `${JSON.stringify(row)}\n`).join("")));
    },
    async cancel() {
      await lines.return(undefined);
    },
  });
}

type Line = { kind: string } & Record<string, unknown>;

async function* exported(edge: Edge, account: AccountRow): AsyncGenerator<Line[]> {
  yield [{ kind: "account", ...account }];
  yield (await membershipsOf(edge.env.DB, account.id)).map((row) => ({ kind: "membership", ...row }));
  yield* tokenLines(edge, account.id);
  yield* modelLines(edge, account.username);
  yield* deploymentLines(edge, account.username);
  yield* predictionLines(edge, account.id, "prediction");
  yield* predictionLines(edge, account.id, "training");
  yield* batchLines(edge, account.id);
  yield* fileLines(edge, account.id);
  yield* ledgerLines(edge, account.id);
  yield* auditLines(edge, account.id);
  // Whoever reads it sees that nothing is missing.
  yield [{ kind: "end" }];
}

/** What a token may do; never its hash. */
async function* tokenLines({ env }: Edge, accountId: string): AsyncGenerator<Line[]> {
  for (let after = ""; ; ) {
    const rows = await tokensOf(env.DB, accountId, after, PAGE_ROWS);
    yield rows.map(({ hash, ...row }) => ({ kind: "token", id: tokenId(hash), ...row }));
    after = rows.at(-1)?.hash ?? "";
    if (rows.length < PAGE_ROWS) return;
  }
}

async function* modelLines({ env }: Edge, username: string): AsyncGenerator<Line[]> {
  for (let after = ""; ; ) {
    const rows = await modelsOf(env.DB, username, after, PAGE_ROWS);
    for (const row of rows) {
      const versions = await versionsOf(env.DB, row.owner, row.name);
      yield [{ kind: "model", ...row }, ...versions.map((version) => ({ kind: "version", ...version }))];
    }
    after = rows.at(-1)?.name ?? "";
    if (rows.length < PAGE_ROWS) return;
  }
}

async function* deploymentLines({ env }: Edge, username: string): AsyncGenerator<Line[]> {
  for (let after = ""; ; ) {
    const rows = await deploymentsOf(env.DB, username, after, PAGE_ROWS);
    yield rows.map((row) => ({ kind: "deployment", ...row }));
    after = rows.at(-1)?.name ?? "";
    if (rows.length < PAGE_ROWS) return;
  }
}

async function* predictionLines(
  edge: Edge,
  accountId: string,
  kind: "prediction" | "training",
): AsyncGenerator<Line[]> {
  for await (const rows of listed(edge, accountId, kind)) {
    const known = await documentsOf(edge, accountId, rows);
    yield known.map((document) => ({ kind, ...showPrediction(edge, document) }));
  }
}

async function* batchLines(edge: Edge, accountId: string): AsyncGenerator<Line[]> {
  for await (const rows of listed(edge, accountId, "batch")) {
    yield rows.map(({ prediction_id: id, created_at }) => ({ kind: "batch", id, created_at }));
  }
}

/** Pages of an account's list, newest first. */
async function* listed(edge: Edge, accountId: string, kind: "prediction" | "training" | "batch") {
  type Page = Awaited<ReturnType<ReturnType<typeof accountStub>["list"]>>["rows"];
  let before: { created_at: number; prediction_id: string } | null = null;
  for (;;) {
    const page: { rows: Page; more: boolean } = await accountStub(edge.env, accountId).list({
      kind,
      limit: PAGE_ROWS,
      before,
    });
    yield page.rows;
    const last = page.rows.at(-1);
    before = last === undefined ? null : { created_at: last.created_at, prediction_id: last.prediction_id };
    if (!page.more || before === null) return;
  }
}

/** Documents that the list holds, and those that only their objects do: one call for each object. */
async function documentsOf(
  edge: Edge,
  accountId: string,
  rows: { prediction_id: string; document: PredictionDocument | null }[],
): Promise<PredictionDocument[]> {
  const asked = Map.groupBy(
    rows.filter(({ document }) => document === null).map((row) => row.prediction_id),
    predictionObjectName,
  );
  const found = new Map<string, PredictionDocument>();
  for (const ids of asked.values()) {
    const documents = await predictionStub(edge.env, ids[0] ?? "").getMany(ids, accountId);
    for (const document of documents) if (document !== null) found.set(document.id, document);
  }
  return rows.flatMap(({ prediction_id, document }) => document ?? found.get(prediction_id) ?? []);
}

async function* fileLines(edge: Edge, accountId: string): AsyncGenerator<Line[]> {
  let before: { created_at: number; file_id: string } | null = null;
  for (;;) {
    const { files, more } = await accountStub(edge.env, accountId).files({ limit: PAGE_ROWS, before });
    yield files.map((file) => ({ kind: "file", ...file }));
    const last = files.at(-1);
    before = last === undefined ? null : { created_at: last.created_at, file_id: last.id };
    if (!more || before === null) return;
  }
}

async function* ledgerLines(edge: Edge, accountId: string): AsyncGenerator<Line[]> {
  for (let after_seq = 0; ; ) {
    const { entries, more } = await accountStub(edge.env, accountId).ledger({ after_seq, limit: PAGE_ROWS });
    // An entry has a kind of its own.
    yield entries.map((entry) => ({ kind: "ledger", entry }));
    after_seq = entries.at(-1)?.seq ?? after_seq;
    if (!more) return;
  }
}

async function* auditLines(edge: Edge, accountId: string): AsyncGenerator<Line[]> {
  for (let before_seq: number | null = null; ; ) {
    const { entries, more }: Awaited<ReturnType<ReturnType<typeof auditStub>["list"]>> = await auditStub(
      edge.env,
      accountId,
    ).list({ before_seq, limit: PAGE_ROWS });
    yield entries.map((entry) => ({ kind: "audit", ...entry }));
    before_seq = entries.at(-1)?.seq ?? null;
    if (!more) return;
  }
}
