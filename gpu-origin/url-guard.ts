/**
 * Which URLs and addresses may be fetched for a user. The rule is one: the address that is connected to must be public, or in the operator's list. Names
 * are resolved once, every address of the answer is checked, and the connection goes to a checked one, so a name that changes its mind gains nothing. The
 * rule itself is schema/public-url.ts.
 */
import { lookup } from "node:dns/promises";
import ipaddr from "ipaddr.js";
import { addressesFault, parseUserUrl } from "../schema/public-url.ts";

export interface UrlPolicy {
  /** CIDR ranges of private addresses that are allowed, there over http and on any port */
  allowCidrs: string[];
  /** for tests: all addresses of a name */
  resolve?: (name: string) => Promise<string[]>;
}

export type UrlCheck = { ok: true; url: URL; address: string } | { ok: false; reason: string };

/** Checks a URL by its text and by every address of its host; gives the address to connect to. */
export async function checkUrl(text: string, policy: UrlPolicy): Promise<UrlCheck> {
  const parsed = parseUserUrl(text);
  if (!parsed.ok) return parsed;
  const { url, host } = parsed;
  const addresses = ipaddr.isValid(host) ? [host] : await resolveAll(host, policy);
  const [address] = addresses;
  if (address === undefined) return { ok: false, reason: "its host cannot be found" };
  const reason = addressesFault(parsed, addresses, policy.allowCidrs);
  return reason === null ? { ok: true, url, address } : { ok: false, reason };
}

async function resolveAll(name: string, policy: UrlPolicy): Promise<string[]> {
  try {
    if (policy.resolve !== undefined) return await policy.resolve(name);
    return (await lookup(name, { all: true })).map((entry) => entry.address);
  } catch {
    return [];
  }
}
