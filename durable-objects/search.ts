/**
 * Owns the index over models, collections and pages: full text, typo tolerance, vectors. D1 is the truth: the Worker says what changed, and a walk through
 * D1 by time of change finds what was lost on the way; an index that is empty or gone is built by the same walk.
 */
import { DurableObject } from "cloudflare:workers";
import { z } from "zod";
import { Alarms } from "./alarms.ts";
import {
  type CatalogCursor,
  countModels,
  type Loaded,
  loadCollections,
  loadModels,
  loadModelsAfter,
  loadPages,
  modelPaths,
} from "./search-catalog.ts";
import type { Embedder, SearchAnswer, SearchApi, SearchRequest, SearchState } from "./search-contract.ts";
import { SearchEmbedder } from "./search-embedder.ts";
import { type DocumentKind, type RankedDocument, SearchIndex } from "./search-index.ts";
import { runCounter } from "./stubs.ts";

const REPAIR_INTERVAL_MS = 60_000;
/** Clocks of Workers differ, and a row may be committed later than its time says: a walk reads again what was younger than this in the last one. */
const REPAIR_OVERLAP_MS = 10_000;
/** Models of one step of the walk: some 50 ms of work, between which searches are answered. */
const WALK_ROWS = 100;
/** A search that finds no index waits so long for a small catalog to be read. */
const FIRST_WALK_WAIT_MS = 2_000;
/** Texts of one prediction: about a second, so that a query's vector does not wait long behind it. */
const EMBED_TEXTS = 8;
const EMBED_RETRY_MS = 15_000;
/** How often a search asks the Worker which version makes vectors: it may not have heard of a new one. */
const ASK_EMBEDDER_MS = 60_000;
/** Counts of runs are told by what runs. Of models that did not run since the index was made, they are asked for when the model is shown, so many at once. */
const COUNTS_AT_ONCE = 20;
const COUNTS_INTERVAL_MS = 5_000;

const START: CatalogCursor = { updated_at: 0, owner: "", name: "" };
const CursorSchema = z.object({ updated_at: z.number(), owner: z.string(), name: z.string() });
type MetaKey = "cursor" | "walked_at" | "is_complete" | "embedder";

export class SearchObject extends DurableObject<Env> implements SearchApi {
  readonly #sql = this.ctx.storage.sql;
  readonly #index = new SearchIndex(this.#sql);
  readonly #embedder = new SearchEmbedder(this.env, (work) => this.ctx.waitUntil(work));
  readonly #alarms = new Alarms<"repair" | "embed" | "counts">(this.ctx.storage);
  #isOpen = false;
  #walking: Promise<void> | null = null;
  readonly #uncounted = new Set<string>();
  #askedEmbedderAt = Number.NEGATIVE_INFINITY;

  async search(request: SearchRequest): Promise<SearchAnswer> {
    this.#open();
    if (!this.#isComplete()) await Promise.race([this.#walk(), pause(FIRST_WALK_WAIT_MS)]);
    const vector = await this.#embedder.query(request.query);
    const ranked = this.#index.search(request.query, vector, request.viewer);
    const of = (kind: DocumentKind) => ranked.filter((document) => document.kind === kind);
    const models = of("model");
    const shown = (documents: RankedDocument[]) =>
      this.#index.show(documents.slice(request.offset, request.offset + request.limit));
    const isAll = request.scope === "all";
    const page = shown(models);
    for (const { path, runs } of page) if (runs === null) this.#uncounted.add(path);
    if (this.#uncounted.size > 0) this.#alarms.setNoLaterThan("counts", Date.now() + COUNTS_INTERVAL_MS);
    return {
      mode: vector === null ? "text" : "hybrid",
      is_complete: this.#isComplete() && !(this.#embedder.isKnown && this.#index.vectorsMissing > 0),
      wants_embedder: this.#wantsEmbedder(),
      models: page,
      has_more: models.length > request.offset + request.limit,
      collections: isAll ? shown(of("collection")).map(({ card }) => card) : [],
      pages: isAll ? shown(of("page")).map(({ card }) => card) : [],
    };
  }

  async changed(paths: string[]): Promise<void> {
    this.#open();
    for (const [path, loaded] of await loadModels(this.env.DB, paths)) {
      if (loaded === null) this.#index.remove("model", path);
      else this.#index.put(loaded.document, loaded.digest);
    }
    await this.#readCollections();
    this.#next();
  }

  async counted(model: string, runs: number): Promise<void> {
    this.#open();
    this.#index.setRuns(model, runs, Date.now());
  }

  async setEmbedder(embedder: Embedder | null): Promise<void> {
    this.#open();
    const known = this.#storedEmbedder();
    this.#embedder.use(embedder);
    if (embedder === null) return;
    if (known?.version !== embedder.version) this.#index.dropVectors();
    this.#setMeta("embedder", JSON.stringify(embedder));
    this.#next();
  }

  async state(): Promise<SearchState> {
    this.#open();
    return {
      models: this.#index.count("model"),
      collections: this.#index.count("collection"),
      pages: this.#index.count("page"),
      vectors: this.#index.vectorCount,
      is_complete: this.#isComplete(),
      memory_bytes: this.#index.bytes,
    };
  }

  override async alarm(): Promise<void> {
    this.#open();
    await this.#alarms.run(async (name) => {
      if (name === "repair") await this.#walk();
      else if (name === "embed") await this.#embed();
      else await this.#askCounts();
    });
  }

  // ---- from D1

  /** Reads what changed since the last walk, from the beginning where there was none. One walk at a time. */
  #walk(): Promise<void> {
    this.#walking ??= this.#walkOnce().finally(() => {
      this.#walking = null;
    });
    return this.#walking;
  }

  async #walkOnce(): Promise<void> {
    this.#alarms.set("repair", Date.now() + REPAIR_INTERVAL_MS);
    const walkedAt = this.#meta("walked_at");
    const startedAt = Date.now();
    let cursor = walkedAt === null ? this.#cursor() : overlapping(this.#cursor(), Number(walkedAt));
    for (let isEnd = false; !isEnd; ) {
      const step = await loadModelsAfter(this.env.DB, cursor, WALK_ROWS);
      this.ctx.storage.transactionSync(() => {
        for (const { document, digest } of step.loaded) this.#index.put(document, digest);
        this.#setMeta("cursor", JSON.stringify(step.cursor));
      });
      ({ cursor, isEnd } = step);
    }
    await this.#readCollections();
    this.#replaceAll("page", await loadPages(this.env.ASSETS));
    await this.#removeDeleted();
    this.#setMeta("is_complete", "1");
    this.#setMeta("walked_at", String(startedAt));
    this.#next();
  }

  /** A deletion leaves no row with a newer time, and a row may be written with an old one: counts that differ tell. */
  async #removeDeleted(): Promise<void> {
    if ((await countModels(this.env.DB)) === this.#index.count("model")) return;
    const there = await modelPaths(this.env.DB);
    for (const path of this.#index.paths("model")) if (!there.has(path)) this.#index.remove("model", path);
    if (there.size !== this.#index.count("model")) this.#setMeta("cursor", JSON.stringify(START));
  }

  async #readCollections(): Promise<void> {
    this.#replaceAll("collection", await loadCollections(this.env.DB));
  }

  #replaceAll(kind: DocumentKind, loaded: Loaded[]): void {
    const now = new Set(loaded.map(({ document }) => document.path));
    this.ctx.storage.transactionSync(() => {
      for (const path of this.#index.paths(kind)) if (!now.has(path)) this.#index.remove(kind, path);
      for (const { document, digest } of loaded) this.#index.put(document, digest);
    });
  }

  // ---- vectors and counts

  /** What is still to do comes by alarm, so that a restart goes on with it. */
  #next(): void {
    const now = Date.now();
    this.#alarms.setNoLaterThan("repair", now + REPAIR_INTERVAL_MS);
    if (this.#embedder.isKnown && this.#index.vectorsMissing > 0) this.#alarms.setNoLaterThan("embed", now);
  }

  async #embed(): Promise<void> {
    const texts = this.#index.withoutVector(EMBED_TEXTS);
    if (texts.length === 0 || !this.#embedder.isKnown) return;
    const vectors = await this.#embedder.embed(texts.map(({ text }) => text));
    texts.forEach(({ id, text }, i) => {
      const vector = vectors?.[i] ?? null;
      if (vector !== null) this.#index.putVector(id, text, vector);
    });
    this.#alarms.set("embed", Date.now() + (vectors === null ? EMBED_RETRY_MS : 0));
  }

  async #askCounts(): Promise<void> {
    const paths = [...this.#uncounted].slice(0, COUNTS_AT_ONCE);
    this.#uncounted.clear();
    const counts = await Promise.all(paths.map((path) => runCounter(this.env, path).total()));
    paths.forEach((path, i) => {
      this.#index.setRuns(path, counts[i] ?? 0, null);
    });
  }

  #wantsEmbedder(): boolean {
    const isDue = Date.now() - this.#askedEmbedderAt >= ASK_EMBEDDER_MS;
    if (isDue) this.#askedEmbedderAt = Date.now();
    return isDue;
  }

  // ---- storage

  /** The first call makes the tables: the constructor writes nothing. */
  #open(): void {
    if (this.#isOpen) return;
    this.#sql.exec("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
    this.#index.open();
    this.#embedder.use(this.#storedEmbedder());
    this.#isOpen = true;
  }

  #meta(key: MetaKey): string | null {
    const [row] = this.#sql.exec<{ value: string }>("SELECT value FROM meta WHERE key = ?", key).toArray();
    return row?.value ?? null;
  }

  #setMeta(key: MetaKey, value: string): void {
    this.#sql.exec("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value);
  }

  #storedEmbedder(): Embedder | null {
    const stored = this.#meta("embedder");
    return stored === null ? null : (JSON.parse(stored) as Embedder);
  }

  #isComplete(): boolean {
    return this.#meta("is_complete") !== null;
  }

  #cursor(): CatalogCursor {
    const stored = this.#meta("cursor");
    return stored === null ? START : CursorSchema.parse(JSON.parse(stored));
  }
}

/** Where the next walk begins: at the end of the last one, or before what was too young for it. */
function overlapping(cursor: CatalogCursor, walkedAt: number): CatalogCursor {
  const settled = walkedAt - REPAIR_OVERLAP_MS;
  return cursor.updated_at <= settled ? cursor : { updated_at: Math.max(0, settled), owner: "", name: "" };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
