/** The good end of a build, before it is stored: its version is made. */
import type { BuildApi } from "../../durable-objects/build-contract.ts";
import type { BuildPublication } from "../../schema/build-document.ts";
import type { BuildEvent } from "../../schema/packages.ts";
import type { Edge } from "../env.ts";
import { publishVersion } from "./publish-version.ts";

/** Null where these events tell no good end, or it is not this origin's to tell. */
export async function publishBuilt(
  edge: Edge,
  build: BuildApi,
  events: BuildEvent[],
  originId: string,
): Promise<BuildPublication | null> {
  const end = events.find((event) => event.type === "finished");
  if (end?.status !== "succeeded") return null;
  const request = await build.beginPublish(originId);
  if (request === null) return null;
  if (end.version === undefined) {
    const detail = "The origin that built it told no version. Its software may be older than this platform's.";
    return { kind: "refused", code: "build.failed", detail, schema_diff: null };
  }
  const { id, owner, name, manifest, account_id, is_forced } = request;
  const made = await publishVersion(edge, {
    ...{ owner, name, account_id, is_forced, build_id: id },
    package: { kind: "source", repository: `${owner}/${name}`, manifest },
    version: end.version,
    description: end.description ?? null,
  });
  const isBreaking = made.kind === "refused" && made.code === "version.breaking";
  return isBreaking ? { ...made, detail: `${made.detail} Or force it: cogway push --force.` } : made;
}
