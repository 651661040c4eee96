/**
 * Makes vectors by the embeddings model of the catalog: as predictions of the operator, which its own create limit does not count. Texts of documents go in
 * batches, one at a time. The vector of a query is waited for as long as a person does not notice, and only where an instance is up; else it is made
 * behind the search, for the next that asks the same.
 */
import { z } from "zod";
import { newPredictionId } from "../schema/ids.ts";
import { quantise } from "../schema/search-ranking.ts";
import { OPERATOR_ACCOUNT_ID } from "../schema/tables/operator-seed.ts";
import type { Embedder } from "./search-contract.ts";
import { predictionStub } from "./stubs.ts";

/** How long a search waits for the vector of its query. */
const QUERY_WAIT_MS = 150;
/** Vectors of queries that are remembered, 400 bytes each. */
const QUERIES_MAX = 2_000;
/** Queries whose vectors are made at the same time: more would wait in line. */
const QUERIES_IN_FLIGHT_MAX = 4;
/** Without an instance, a search has one booted this often at most. */
const BOOT_INTERVAL_MS = 10_000;
/** A prediction of ours that has not ended by then is given up, and ends. */
const GIVE_UP_MS = 60_000;
/** Nothing reads them again. */
const RETENTION_MS = 60_000;
/** Digits after the point; int8 has two to three. */
const DECIMALS = 4;
const QUERY_CHARACTERS_MAX = 1_000;

const OutputSchema = z.object({ embeddings: z.array(z.object({ embedding: z.array(z.number()) })) });

export class SearchEmbedder {
  readonly #env: Env;
  readonly #waitUntil: (work: Promise<unknown>) => void;
  readonly #queries = new Map<string, Int8Array>();
  readonly #inFlight = new Map<string, Promise<Int8Array | null>>();
  #embedder: Embedder | null = null;
  /** when the last vectors came: an instance lives on for `idle_ttl_ms` */
  #servedAt = Number.NEGATIVE_INFINITY;
  #bootedAt = Number.NEGATIVE_INFINITY;

  constructor(env: Env, waitUntil: (work: Promise<unknown>) => void) {
    this.#env = env;
    this.#waitUntil = waitUntil;
  }

  get isKnown(): boolean {
    return this.#embedder !== null;
  }

  /** Which version makes the vectors; null when none can. */
  use(embedder: Embedder | null): void {
    if (embedder?.version !== this.#embedder?.version) {
      this.#queries.clear();
      this.#servedAt = Number.NEGATIVE_INFINITY;
    }
    this.#embedder = embedder;
  }

  /** The vector of a query, or null where it is not to be had at once. */
  async query(text: string): Promise<Int8Array | null> {
    const key = text.slice(0, QUERY_CHARACTERS_MAX).trim().toLowerCase();
    const known = this.#queries.get(key);
    if (known !== undefined) {
      this.#queries.delete(key);
      this.#queries.set(key, known);
      return known;
    }
    if (this.#embedder === null || key === "") return null;
    const isUp = Date.now() - this.#servedAt < this.#embedder.spec.idle_ttl_ms;
    let making = this.#inFlight.get(key);
    if (making === undefined) {
      if (this.#inFlight.size >= QUERIES_IN_FLIGHT_MAX) return null;
      if (!isUp) {
        if (Date.now() - this.#bootedAt < BOOT_INTERVAL_MS) return null;
        this.#bootedAt = Date.now();
      }
      making = this.#make(key);
      this.#waitUntil(making);
    }
    if (!isUp) return null;
    return Promise.race([making, new Promise<null>((resolve) => setTimeout(() => resolve(null), QUERY_WAIT_MS))]);
  }

  #make(key: string): Promise<Int8Array | null> {
    const making = this.embed([key])
      .then((vectors) => {
        const vector = vectors?.[0] ?? null;
        if (vector === null) return null;
        if (this.#queries.size >= QUERIES_MAX) this.#queries.delete(this.#queries.keys().next().value ?? "");
        this.#queries.set(key, vector);
        return vector;
      })
      .finally(() => this.#inFlight.delete(key));
    this.#inFlight.set(key, making);
    return making;
  }

  /** One vector for each text; null when the model could not make them in time. */
  async embed(texts: string[]): Promise<(Int8Array | null)[] | null> {
    const embedder = this.#embedder;
    if (embedder === null) return null;
    try {
      const output = await this.#predict(embedder, { texts, decimals: DECIMALS });
      const parsed = OutputSchema.safeParse(output);
      if (!parsed.success || parsed.data.embeddings.length !== texts.length) return null;
      this.#servedAt = Date.now();
      return parsed.data.embeddings.map(({ embedding }) => quantise(embedding));
    } catch (error) {
      console.warn(JSON.stringify({ level: "warn", message: "no vectors", error: String(error) }));
      return null;
    }
  }

  /** The output of an ended prediction; null for every other end. */
  async #predict({ spec, version }: Embedder, input: Record<string, unknown>): Promise<unknown> {
    const id = newPredictionId(this.#env.SIGNING_SECRET, Number(this.#env.PREDICTION_POOL_SIZE));
    const created_at = Date.now();
    const { document } = await predictionStub(this.#env, id).create({
      id,
      account_id: OPERATOR_ACCOUNT_ID,
      kind: "prediction",
      spec,
      shown_version: version,
      destination: null,
      deployment: null,
      batch: null,
      is_listed: false,
      input,
      input_ref: null,
      shown_input: null,
      created_at,
      deadline_at: created_at + GIVE_UP_MS,
      retention_ms: RETENTION_MS,
      source: "api",
      webhook: null,
      webhook_events_filter: null,
      stream_kind: "text",
      log_lines: [],
      wait_ms: GIVE_UP_MS,
    });
    return document.state === "succeeded" ? document.output : null;
  }
}
