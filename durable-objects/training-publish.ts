/**
 * The good end of a training: before anybody sees it, its weights become a version of the destination. Everything here may be repeated, since the batch of
 * events that tells the end is sent again until it is stored.
 */
import { and, desc, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { fineTuneId, fineTuneSchema, takesWeights } from "../schema/fine-tunes.ts";
import type { AttemptBatch, AttemptEvent } from "../schema/origin-protocol.ts";
import { models, versions } from "../schema/tables/index.ts";
import { type WeightsRef, weightsOf } from "../schema/weights.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import { keepWeights, WEIGHTS_BYTES_MAX } from "./training-weights.ts";

type Training = Pick<CreatePrediction, "id" | "destination" | "shown_version" | "spec">;
type Finished = Extract<AttemptEvent, { type: "finished" }>;

interface VersionKey {
  owner: string;
  name: string;
  id: string;
}

export interface Published {
  /** the batch as it is to be stored: its end names the version, or says why there is none */
  batch: AttemptBatch;
  /** the version that was made; to be withdrawn should the training not end well after all */
  version: (VersionKey & { weights_key: string }) | null;
}

/** Makes the version where the batch tells a good end. Throws what may pass: the batch then comes again. */
export async function publishTraining(env: Env, training: Training, batch: AttemptBatch): Promise<Published> {
  const end = batch.events.find((event) => event.type === "finished");
  if (end?.status !== "succeeded") return { batch, version: null };
  const result = await publish(env, training, end);
  const events = batch.events.map((event) => (event === end ? result.end : event));
  return { batch: { ...batch, events }, version: result.version };
}

async function publish(
  env: Env,
  training: Training,
  end: Finished,
): Promise<{ end: Finished; version: Published["version"] }> {
  const fail = (code: string, error: string) => {
    const { output: _, ...rest } = end;
    return { end: { ...rest, status: "failed" as const, code, error }, version: null };
  };
  const file = weightsOf(end.output);
  if (file === null) {
    return fail(
      "training.no_weights",
      "The trainer returned no weights: it must return TrainingOutput(weights=Path(...)), or the Path itself.",
    );
  }
  if (file.$cogway_file.size_bytes > WEIGHTS_BYTES_MAX) {
    return fail("training.weights_too_large", `The weights are larger than ${WEIGHTS_BYTES_MAX} bytes.`);
  }
  const weights = await keepWeights(env.FILES, training.id, file);
  if (weights === null) return fail("training.no_weights", "The weights that the trainer returned were not stored.");
  const made = await insertVersion(env.DB, training, weights);
  if ("gone" in made) {
    await dropUnused(env, weights.key);
    return fail(made.gone, made.detail);
  }
  const { owner, name, id } = made;
  const version = { ...made, weights_key: weights.key };
  return { end: { ...end, output: { version: `${owner}/${name}:${id}`, weights: file } }, version };
}

async function insertVersion(
  db: D1Database,
  { id: training_id, destination, shown_version, spec }: Training,
  weights: WeightsRef,
): Promise<VersionKey | { gone: string; detail: string }> {
  const orm = drizzle(db);
  const [owner = "", name = ""] = (destination ?? "").split("/");
  const [baseOwner = "", baseName = ""] = spec.model.split("/");
  const isBase = and(eq(versions.owner, baseOwner), eq(versions.name, baseName), eq(versions.id, shown_version));
  const base = await orm.select().from(versions).where(isBase).get();
  if (base === undefined) {
    return {
      gone: "training.base_gone",
      detail: `The version that was trained, ${spec.model}:${shown_version}, was deleted.`,
    };
  }
  const key = { owner, name, id: fineTuneId(base.id, weights) };
  const isDestination = and(eq(models.owner, owner), eq(models.name, name));
  const now = Date.now();
  const insert = orm
    .insert(versions)
    .values({
      ...base,
      ...key,
      openapi_schema: fineTuneSchema(base.openapi_schema),
      base_version_id: base.id,
      weights,
      training_id,
      fast_booting: takesWeights(base.openapi_schema),
      train_memory_bytes: null,
      run_by_others: false,
      created_at: now,
    })
    .onConflictDoNothing();
  const point = orm
    .update(models)
    .set({
      state: "ready",
      state_reason: null,
      latest_version_id: key.id,
      latest_version_at: sql`(select ${versions.created_at} from ${versions} where ${isVersion(key)})`,
      updated_at: now,
    })
    .where(isDestination)
    .returning({ name: models.name });
  // A model that is deleted at the same time must not leave a version behind.
  const orphan = orm
    .delete(versions)
    .where(and(isVersion(key), sql`not exists (select 1 from ${models} where ${isDestination})`));
  const [, pointed] = await orm.batch([insert, point, orphan]);
  if (pointed.length > 0) return key;
  return {
    gone: "training.destination_gone",
    detail: `The destination ${owner}/${name} was deleted while the training ran.`,
  };
}

/** Takes a version back whose training was canceled in the moment of its end. One that another training made too stays. */
export async function withdrawVersion(
  env: Env,
  trainingId: string,
  key: NonNullable<Published["version"]>,
): Promise<void> {
  const orm = drizzle(env.DB);
  const ofModel = and(eq(versions.owner, key.owner), eq(versions.name, key.name));
  const removed = await orm
    .delete(versions)
    .where(and(isVersion(key), eq(versions.training_id, trainingId)))
    .returning({ id: versions.id });
  if (removed.length === 0) return;
  const latest = await orm.select().from(versions).where(ofModel).orderBy(desc(versions.created_at)).limit(1).get();
  await orm
    .update(models)
    .set({ latest_version_id: latest?.id ?? null, latest_version_at: latest?.created_at ?? null })
    .where(and(eq(models.owner, key.owner), eq(models.name, key.name), eq(models.latest_version_id, key.id)));
  await dropUnused(env, key.weights_key);
}

/** Versions of equal weights share one object. */
async function dropUnused({ DB, FILES }: Env, weightsKey: string): Promise<void> {
  const isOfWeights = sql`json_extract(${versions.weights}, '$.key') = ${weightsKey}`;
  const used = await drizzle(DB).select({ id: versions.id }).from(versions).where(isOfWeights).limit(1).get();
  if (used === undefined) await FILES.delete(weightsKey);
}

function isVersion({ owner, name, id }: VersionKey) {
  return and(eq(versions.owner, owner), eq(versions.name, name), eq(versions.id, id));
}
