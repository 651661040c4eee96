/** What a BuildObject is asked, by the Worker: plain data over native RPC, as in prediction-contract.ts. One object a build, named by its id. */
import type { BuildDocument, BuildPublication } from "../schema/build-document.ts";
import type { BuildAck, BuildEvents } from "../schema/origin-protocol.ts";

export interface CreateBuild {
  id: string;
  account_id: string;
  owner: string;
  name: string;
  /** digest of the source manifest, which the repository holds */
  manifest: string;
  is_trusted: boolean;
  /** makes a version that breaks callers of a stable model all the same */
  is_forced: boolean;
  created_at: number;
}

/** A good end whose version is to be made: what of the build that takes. */
export type BuildToPublish = CreateBuild;

export interface BuildApi {
  /** Idempotent by id. */
  create(request: CreateBuild): Promise<BuildDocument>;
  get(): Promise<BuildDocument | null>;
  /** At once, unless its version is being made just now: then it ends well in a moment. */
  cancel(): Promise<BuildDocument | null>;
  /** Before its version is made from a good end that this origin told: from now on it is not canceled. Null: it is not this origin's (any more). */
  beginPublish(originId: string): Promise<BuildToPublish | null>;
  /** A good end is stored once its version was made (`publication`). */
  applyEvents(events: BuildEvents["events"], originId: string, publication: BuildPublication | null): Promise<BuildAck>;
  /** SSE at `/events`, with ids, from Last-Event-ID on; ends after `done`. The text of the log so far at `/logs`. */
  fetch(request: Request): Promise<Response>;
}
