/**
 * Examples of models in D1: whole documents of predictions, so that they outlive their data. The default one is with the model's row, where every reader
 * of the model has it; it is also among the others when people added it.
 */
import { and, count, desc, eq, isNull, ne, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { examples, models } from "../../schema/tables/index.ts";
import { forgetModel, ofModel } from "./models.ts";

/** Examples that one model may have: one answer shows them all. */
export const EXAMPLES_PER_MODEL_MAX = 20;
/** An example with a larger document stays with its PredictionObject, or is refused. */
export const EXAMPLE_CHARACTERS_MAX = 262_144;

type ExampleRow = typeof examples.$inferSelect;

function ofExamples(owner: string, name: string): SQL | undefined {
  return and(eq(examples.owner, owner), eq(examples.name, name));
}

/** Newest first, without the default one. */
export function listExamples(
  db: D1Database,
  model: { owner: string; name: string; example_prediction_id: string | null },
): Promise<ExampleRow[]> {
  const isOther = ne(examples.prediction_id, model.example_prediction_id ?? "");
  return drizzle(db)
    .select()
    .from(examples)
    .where(and(ofExamples(model.owner, model.name), isOther))
    .orderBy(desc(examples.created_at), desc(examples.prediction_id))
    .all();
}

/** Adds an example, which becomes the default one where there is none. False when the model has as many as it can. */
export async function insertExample(
  db: D1Database,
  owner: string,
  name: string,
  document: PredictionDocument,
  now: number,
): Promise<boolean> {
  const orm = drizzle(db);
  const [{ added } = { added: 0 }] = await orm
    .select({ added: count() })
    .from(examples)
    .where(and(ofExamples(owner, name), ne(examples.prediction_id, document.id)));
  if (added >= EXAMPLES_PER_MODEL_MAX) return false;
  await orm.batch([
    orm
      .insert(examples)
      .values({ owner, name, prediction_id: document.id, document, created_at: now })
      .onConflictDoNothing(),
    orm
      .update(models)
      .set({ default_example: document, example_prediction_id: document.id })
      .where(and(ofModel(owner, name), isNull(models.example_prediction_id))),
  ]);
  forgetModel(owner, name);
  return true;
}

/** Removes an example; where it was the default one, the newest that is left takes its place. False when there is none of this id. */
export async function deleteExample(
  db: D1Database,
  owner: string,
  name: string,
  prediction_id: string,
): Promise<boolean> {
  const orm = drizzle(db);
  const left = sql`from ${examples} where ${ofExamples(owner, name)} order by ${examples.created_at} desc, ${examples.prediction_id} desc limit 1`;
  const [deleted, replaced] = await orm.batch([
    orm
      .delete(examples)
      .where(and(ofExamples(owner, name), eq(examples.prediction_id, prediction_id)))
      .returning({ id: examples.prediction_id }),
    orm
      .update(models)
      .set({
        example_prediction_id: sql`(select ${examples.prediction_id} ${left})`,
        default_example: sql`(select ${examples.document} ${left})`,
      })
      .where(and(ofModel(owner, name), eq(models.example_prediction_id, prediction_id)))
      .returning({ name: models.name }),
  ]);
  forgetModel(owner, name);
  return deleted.length + replaced.length > 0;
}

/** Keeps the ended default example's document; only the first snapshot of a prediction counts. */
export async function saveExampleSnapshot(
  db: D1Database,
  owner: string,
  name: string,
  document: PredictionDocument,
): Promise<void> {
  await drizzle(db)
    .update(models)
    .set({ default_example: document })
    .where(and(ofModel(owner, name), eq(models.example_prediction_id, document.id), isNull(models.default_example)));
  forgetModel(owner, name);
}
