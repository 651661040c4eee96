/** Gets a version that an instance is to be booted of, from this host or from the registry of the edge. */
import { setTimeout as wait } from "node:timers/promises";
import type { InstanceBoot } from "../../schema/origin-protocol.ts";
import type { Package } from "../../schema/packages.ts";
import type { EdgeClient } from "../edge-client.ts";
import type { PreparedVersion } from "../prepared-version.ts";
import { SharedWork } from "./shared-work.ts";
import type { SourceFetch } from "./source-fetch.ts";
import { preparedFrom } from "./source-model.ts";
import { placeWeights, type WeightsParts } from "./weights.ts";

/** A source that was built before, so its build's own bound held; this one is for a manifest that says otherwise. */
const SOURCE_BYTES_MAX = 256 * 1024 ** 3;
const ASK_TRIES_MS = 60_000;
const ASK_RETRY_MS = 1_000;

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

export interface ProvideParts extends WeightsParts {
  edge: Pick<EdgeClient, "fetchPackage">;
  sources: SourceFetch;
}

export function provideVersions(parts: ProvideParts): ProvideVersion {
  const fetching = new SharedWork<Provided>();
  return async ({ version_id, package: from }, { onProgress, signal }) => {
    const known = parts.versions.get(version_id);
    if (known !== null) return { kind: "ready", version: known };
    if (from === undefined) return { kind: "failed", detail: "this origin has not prepared this version" };
    const provided = await fetching.run(version_id, { signal, onProgress }, (given, tell) =>
      provide(version_id, from.repository, parts, given, tell).catch(
        (error: unknown): Provided => ({
          kind: "failed",
          detail: error instanceof Error ? error.message : String(error),
        }),
      ),
    );
    return provided ?? { kind: "failed", detail: "given up" };
  };
}

async function provide(
  version_id: string,
  repository: string,
  parts: ProvideParts,
  signal: AbortSignal,
  onProgress: (detail: string) => void,
): Promise<Provided> {
  const { versions, sources } = parts;
  onProgress("asking for its package");
  const found = await fetchPackage(parts.edge, repository, version_id, signal);
  if (typeof found === "string") return { kind: "failed", detail: `its package could not be had: ${found}` };
  const version = preparedFrom(found);
  if (version === null || version.id !== version_id) {
    return { kind: "failed", detail: "its package was made by another release of Cogway; push the model again" };
  }
  if (found.package.kind === "image") {
    versions.save(version);
    return { kind: "ready", version };
  }
  onProgress("fetching its source");
  const fetched = await sources.fetch({
    package: found.package,
    version_id,
    disk_limit_bytes: SOURCE_BYTES_MAX,
    signal,
    onProgress,
  });
  if (fetched.kind !== "fetched")
    return { kind: "failed", detail: fetched.kind === "failed" ? fetched.detail : "given up" };
  try {
    await placeWeights(version, parts, { signal, onLine: onProgress, bytes_max: SOURCE_BYTES_MAX });
    versions.save(version);
  } finally {
    fetched.release();
    versions.discard(version_id);
  }
  return { kind: "ready", version };
}

/** The package, or why it cannot be had. */
async function fetchPackage(
  edge: Pick<EdgeClient, "fetchPackage">,
  repository: string,
  version_id: string,
  signal: AbortSignal,
): Promise<Package | string> {
  for (const giveUpAt = Date.now() + ASK_TRIES_MS; ; ) {
    const answer = await edge.fetchPackage(repository, version_id);
    if (answer.kind === "ok") return answer.value;
    if (answer.kind === "refused" || Date.now() > giveUpAt || signal.aborted) return answer.detail;
    await wait(ASK_RETRY_MS, null, { signal });
  }
}
