/** Which repositories hold which blobs of the registry, and when the bytes of one may go. One object for each first character of a digest. */
import { DurableObject } from "cloudflare:workers";

export class BlobObject extends DurableObject<Env> {}
