/** What the SearchObject is asked by the Worker: plain data over native RPC, as in prediction-contract.ts. */
import type { RunSpec } from "./prediction-contract.ts";

/** Whose rights a search has: usernames of the caller and its organizations, and the only models that its token may see. */
export interface SearchViewer {
  usernames: string[];
  allowed_models: string[] | null;
}

export interface SearchRequest {
  query: string;
  /** null sees what everybody sees */
  viewer: SearchViewer | null;
  /** `all`: collections and pages of documentation too */
  scope: "models" | "all";
  offset: number;
  limit: number;
}

export interface SearchAnswer {
  /** `text`: the query's vector was not to be had at once */
  mode: "hybrid" | "text";
  /** false while the index is built for the first time, or vectors are being made */
  is_complete: boolean;
  /** the Worker should tell which version makes vectors (setEmbedder) */
  wants_embedder: boolean;
  /** best first */
  models: {
    path: string;
    is_public: boolean;
    tags: string[];
    /** null: not known yet, and asked for behind the answer */
    runs: number | null;
    score: number;
    /** JSON of the model's catalog row; empty where it is too large to be kept here */
    card: string;
  }[];
  has_more: boolean;
  /** JSON of what is shown of each */
  collections: string[];
  pages: string[];
}

/** What makes vectors: a version of the embeddings model, and how it runs. */
export interface Embedder {
  version: string;
  spec: RunSpec;
}

export interface SearchState {
  models: number;
  collections: number;
  pages: number;
  vectors: number;
  is_complete: boolean;
  /** arrays of the index */
  memory_bytes: number;
}

export interface SearchApi {
  search(request: SearchRequest): Promise<SearchAnswer>;
  /** These models (owner/name) were made, changed or deleted, and collections may have been. */
  changed(paths: string[]): Promise<void>;
  /** The model (owner/name) has just run; `runs` is its count by now. */
  counted(model: string, runs: number): Promise<void>;
  setEmbedder(embedder: Embedder | null): Promise<void>;
  /** For tests and measurements. */
  state(): Promise<SearchState>;
}
