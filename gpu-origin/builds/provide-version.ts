/** Gets a version that an instance is to be booted of, from this host or from the registry of the edge. */
import type { InstanceBoot } from "../../schema/origin-protocol.ts";
import type { PreparedVersion } from "../prepared-version.ts";

export type Provided =
  | { kind: "ready"; version: PreparedVersion }
  /** one line, for the instance's reason */
  | { kind: "failed"; detail: string };

/**
 * At once for a version that was prepared here; else its package is asked of the edge and its source is fetched, once however many ask. An image is not
 * pulled here: the builder's launch does that.
 */
export type ProvideVersion = (
  boot: Pick<InstanceBoot, "version_id" | "package">,
  options: { onProgress: (detail: string) => void; signal: AbortSignal },
) => Promise<Provided>;
