/** Where a build goes. Pure. */
import { NO_SOURCES, NO_UNTRUSTED, type PlacementHost } from "./placement-hosts.ts";

interface BuildOrigin extends Pick<PlacementHost, "origin_id" | "is_open" | "runs"> {
  /** builds that it has now */
  builds: number;
}

/** The origin that builds a source: of those that may, the one that builds least; or why none does. `except`: those that could not take it just now. */
export function decideBuildPlace(
  request: { is_trusted: boolean; except: readonly string[] },
  origins: BuildOrigin[],
): { origin_id: string } | { refused: string } {
  const builders = origins.filter((origin) => origin.is_open && origin.runs?.packages.includes("source"));
  if (builders.length === 0) {
    return { refused: origins.some((origin) => origin.is_open) ? NO_SOURCES : "No origin is connected." };
  }
  const able = builders.filter((origin) => request.is_trusted || origin.runs?.untrusted);
  if (able.length === 0) return { refused: NO_UNTRUSTED };
  const free = able.filter((origin) => !request.except.includes(origin.origin_id));
  free.sort((a, b) => a.builds - b.builds || a.origin_id.localeCompare(b.origin_id));
  return free[0] === undefined
    ? { refused: "The origins that build cannot be reached." }
    : { origin_id: free[0].origin_id };
}
