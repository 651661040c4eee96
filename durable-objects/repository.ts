/** One repository of the registry: manifests, tags, unfinished uploads, and the blobs that it may read. */
import { DurableObject } from "cloudflare:workers";

export class RepositoryObject extends DurableObject<Env> {}
