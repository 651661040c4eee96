/** One page of an account's predictions, newest first: rows of the AccountObject, with what it does not hold read from the PredictionObjects. */
import { z } from "zod";
import type { ListRow } from "../../durable-objects/account-contract.ts";
import { accountStub, predictionStub } from "../../durable-objects/stubs.ts";
import { predictionObjectName } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import type { Caller, Edge } from "../env.ts";
import { reaches } from "./find-prediction.ts";

/** Objects that are asked at once for one page (design section 2). */
const OBJECTS_AT_ONCE = 6;

/** A row of the list, and on which side of it the page lies: `before` it is older. */
export const PredictionCursor = z.object({
  side: z.enum(["before", "after"]),
  created_at: z.number().int(),
  prediction_id: z.string(),
});
type Position = z.infer<typeof PredictionCursor>;

export interface PredictionPage {
  documents: PredictionDocument[];
  next: Position | null;
  previous: Position | null;
}

export async function listPredictions(
  edge: Edge,
  caller: Caller,
  query: {
    kind: "prediction" | "training";
    limit: number;
    cursor: Position | null;
    created_after: number | null;
    created_before: number | null;
    source: "web" | null;
  },
): Promise<PredictionPage> {
  const { cursor, ...filters } = query;
  const { rows, more } = await accountStub(edge.env, caller.account_id).list({
    ...filters,
    ...(cursor === null ? {} : { [cursor.side]: cursor }),
  });
  const missing = rows.filter((row) => row.document === null).map((row) => row.prediction_id);
  const read = await readDocuments(edge.env, caller.account_id, missing);
  // A row without a document was admitted a moment ago and is created right now, or its creation failed. A page of a token that is bound to models
  // holds fewer rows than it might: rows do not know their model before the end.
  const documents = rows
    .flatMap((row) => row.document ?? read.get(row.prediction_id) ?? [])
    .filter((document) => reaches(caller, document));
  return { documents, ...pageEnds(rows, more, cursor) };
}

/** What lies around a page of an account's list. */
export function pageEnds(
  rows: ListRow[],
  more: boolean,
  cursor: Position | null,
): { next: Position | null; previous: Position | null } {
  const first = rows[0];
  const last = rows.at(-1);
  const isBackward = cursor?.side === "after";
  const beyond = (side: Position["side"], row: typeof first): Position | null =>
    row === undefined ? null : { side, created_at: row.created_at, prediction_id: row.prediction_id };
  return {
    next: isBackward || more ? beyond("before", last) : null,
    previous: isBackward ? (more ? beyond("after", first) : null) : cursor === null ? null : beyond("after", first),
  };
}

async function readDocuments(env: Env, accountId: string, ids: string[]): Promise<Map<string, PredictionDocument>> {
  const groups = [...Map.groupBy(ids, predictionObjectName).values()];
  const found = new Map<string, PredictionDocument>();
  const next = async (): Promise<void> => {
    for (let group = groups.pop(); group !== undefined; group = groups.pop()) {
      const documents = await predictionStub(env, group[0] ?? "").getMany(group, accountId);
      for (const document of documents) if (document !== null) found.set(document.id, document);
    }
  };
  await Promise.all(Array.from({ length: OBJECTS_AT_ONCE }, next));
  return found;
}
