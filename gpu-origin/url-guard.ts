/**
 * Which URLs and addresses may be fetched for a user. The rule is one: the address that is connected to must be public, or in the operator's list. Names
 * are resolved once, every address of the answer is checked, and the connection goes to a checked one, so a name that changes its mind gains nothing.
 *
 * Odd spellings (0x7f.1, 2130706433, full-width digits, a trailing dot) are the URL parser's to undo: it writes IPv4 hosts in dotted form.
 */
import { lookup } from "node:dns/promises";
import ipaddr from "ipaddr.js";

/** Longer ones are no address that anybody typed. */
const URL_LENGTH_MAX = 8_192;

const DENIED_IPV4 = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.31.196.0/24",
  "192.52.193.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "192.175.48.0/24",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4",
].map((cidr) => ipaddr.IPv4.parseCIDR(cidr));

/** Only 2000::/3 is public; within it these are not, since they lead into IPv4 (6to4, Teredo), or are for documentation and tests. */
const PUBLIC_IPV6 = ipaddr.IPv6.parseCIDR("2000::/3");
const DENIED_IPV6 = ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"].map((cidr) =>
  ipaddr.IPv6.parseCIDR(cidr),
);

/** Names that mean this network, whatever they resolve to. */
const LOCAL_NAME = /(^|\.)(localhost|localdomain|local|internal|intranet|lan|home|corp|private|home\.arpa)$/;

export interface UrlPolicy {
  /** CIDR ranges of private addresses that are allowed, there over http and on any port */
  allowCidrs: string[];
  /** for tests: all addresses of a name */
  resolve?: (name: string) => Promise<string[]>;
}

export type UrlCheck = { ok: true; url: URL; address: string } | { ok: false; reason: string };

/** True for public addresses and those in the operator's list. IPv4 addresses inside IPv6 (`::ffff:a.b.c.d`) are judged as what they lead to. */
function isAddressAllowed(address: string, allowCidrs: string[]): { ok: boolean; byOperator: boolean } {
  if (!ipaddr.isValid(address)) return { ok: false, byOperator: false };
  const parsed = ipaddr.process(address);
  const byOperator = allowCidrs.some((cidr) => {
    const [range, bits] = ipaddr.parseCIDR(cidr);
    if (parsed instanceof ipaddr.IPv4) return range instanceof ipaddr.IPv4 && parsed.match(range, bits);
    return range instanceof ipaddr.IPv6 && parsed.match(range, bits);
  });
  if (byOperator) return { ok: true, byOperator };
  if (parsed instanceof ipaddr.IPv4) return { ok: !DENIED_IPV4.some((range) => parsed.match(range)), byOperator };
  const isPublic = parsed.match(PUBLIC_IPV6) && !DENIED_IPV6.some((range) => parsed.match(range));
  return { ok: isPublic, byOperator };
}

/** Checks a URL by its text and by every address of its host; gives the address to connect to. */
export async function checkUrl(text: string, policy: UrlPolicy): Promise<UrlCheck> {
  if (text.length > URL_LENGTH_MAX) return refuse("it is too long");
  // Parsers disagree on what a backslash means, and so on which host is named.
  if (text.includes("\\")) return refuse("it holds a backslash");
  const url = URL.parse(text);
  if (url === null) return refuse("it is not a URL");
  if (url.protocol !== "http:" && url.protocol !== "https:") return refuse("only http and https are fetched");
  if (url.username !== "" || url.password !== "") return refuse("it holds a user name or password");
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (host === "") return refuse("it has no host");

  const addresses = ipaddr.isValid(host) ? [host] : await resolveAll(host, policy);
  const [first] = addresses;
  if (first === undefined) return refuse("its host cannot be found");
  const checks = addresses.map((address) => isAddressAllowed(address, policy.allowCidrs));
  if (!checks.every((check) => check.ok)) return refuse("its host is not a public address");
  if (checks.every((check) => check.byOperator)) return { ok: true, url, address: first };
  const name = host.replace(/\.$/, "");
  // A name of one label is looked up in the host's own domain.
  if (LOCAL_NAME.test(name) || (!ipaddr.isValid(host) && !name.includes(".")))
    return refuse("its host is a local name");
  // The URL parser leaves the scheme's own port out.
  if (url.port !== "" && url.port !== "80" && url.port !== "443") return refuse("only ports 80 and 443 are fetched");
  return { ok: true, url, address: first };
}

async function resolveAll(name: string, policy: UrlPolicy): Promise<string[]> {
  try {
    if (policy.resolve !== undefined) return await policy.resolve(name);
    return (await lookup(name, { all: true })).map((entry) => entry.address);
  } catch {
    return [];
  }
}

function refuse(reason: string): UrlCheck {
  return { ok: false, reason };
}
