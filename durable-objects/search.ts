/** Owns the index over models and collections: full text, typo tolerance, vectors. */
import { DurableObject } from "cloudflare:workers";

export class SearchObject extends DurableObject<Env> {}
