/** What the tests of npm `replicate` share. */
import Replicate from "replicate";
import type { Api } from "../lib/api.ts";
import { waitFor } from "../lib/wait.ts";

export const NOOP = "cogway/noop";
export const WITHIN_MS = 60_000;
/** The ends that this client knows. */
const ENDS = ["succeeded", "failed", "canceled"];

/** With base URL and token set, and nothing else. */
export function clientOf(api: Api): Replicate {
  return new Replicate({ auth: api.token, baseUrl: `${api.url}/v1` });
}

/** The latest version of one of the operator's models. */
export async function versionOf(replicate: Replicate, name: string): Promise<string> {
  const { latest_version } = await replicate.models.get("cogway", name);
  if (latest_version === undefined) throw new Error(`${name} has no version`);
  return latest_version.id;
}

export function untilEnd<T extends { status: string }>(get: () => Promise<T>): Promise<T> {
  return waitFor("the end", WITHIN_MS, async () => {
    const now = await get();
    return ENDS.includes(now.status) ? now : null;
  });
}
