/**
 * Which URLs of users may be called at all, as far as their text tells, and which addresses count as public. Pure: shared by the guard that fetches inputs,
 * which also resolves names and pins the address, and by the edge, where the network itself refuses what a name leads to.
 *
 * Odd spellings (0x7f.1, 2130706433, full-width digits, a trailing dot) are the URL parser's to undo: it writes IPv4 hosts in dotted form.
 */
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
/** What the name `localhost` stands for, where its addresses cannot be asked for. */
const LOOPBACK = ["127.0.0.1", "::1"];

/** A URL as far as its text goes; `host` is a name, or an address without brackets. */
type ParsedUrl = { ok: true; url: URL; host: string } | { ok: false; reason: string };

/** The parts of the rule that need no address: the scheme, no credentials, a host. */
export function parseUserUrl(text: string): ParsedUrl {
  if (text.length > URL_LENGTH_MAX) return { ok: false, reason: "it is too long" };
  // Parsers disagree on what a backslash means, and so on which host is named.
  if (text.includes("\\")) return { ok: false, reason: "it holds a backslash" };
  const url = URL.parse(text);
  if (url === null) return { ok: false, reason: "it is not a URL" };
  if (url.protocol !== "http:" && url.protocol !== "https:")
    return { ok: false, reason: "only http and https are called" };
  if (url.username !== "" || url.password !== "") return { ok: false, reason: "it holds a user name or password" };
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return host === "" ? { ok: false, reason: "it has no host" } : { ok: true, url, host };
}

/** True for public addresses and those in the operator's list. IPv4 addresses inside IPv6 (`::ffff:a.b.c.d`) are judged as what they lead to. */
function isAddressAllowed(address: string, allowCidrs: readonly string[]): { ok: boolean; byOperator: boolean } {
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

/** The rule over the addresses of a host: why they may not be called, or null. At the operator's own addresses any name and port is right. */
export function addressesFault(
  { url, host }: { url: URL; host: string },
  addresses: readonly string[],
  allowCidrs: readonly string[],
): string | null {
  const checks = addresses.map((address) => isAddressAllowed(address, allowCidrs));
  if (!checks.every((check) => check.ok)) return "its host is not a public address";
  if (checks.every((check) => check.byOperator)) return null;
  return publicNameFault(url, host);
}

/**
 * Why the edge may not call a URL (of a webhook, of a batch's inputs); null when it may. What a name resolves to is judged where the call is made, by the
 * network. So other ports are for `localhost` and for literal addresses in the operator's list; where that has any, other local names may lead to one.
 */
export function userUrlFault(text: string, allowCidrs: readonly string[]): string | null {
  const parsed = parseUserUrl(text);
  if (!parsed.ok) return parsed.reason;
  const { url, host } = parsed;
  if (ipaddr.isValid(host)) return addressesFault(parsed, [host], allowCidrs);
  if (host === "localhost" && LOOPBACK.some((address) => isAddressAllowed(address, allowCidrs).byOperator)) return null;
  if (host !== "localhost" && isLocalName(host) && allowCidrs.length > 0) return null;
  return publicNameFault(url, host);
}

function publicNameFault(url: URL, host: string): string | null {
  if (isLocalName(host)) return "its host is a local name";
  // The URL parser leaves the scheme's own port out.
  return url.port === "" || url.port === "80" || url.port === "443" ? null : "only ports 80 and 443 are called";
}

/** A name of one label is looked up in the host's own domain. */
function isLocalName(host: string): boolean {
  const name = host.replace(/\.$/, "");
  return LOCAL_NAME.test(name) || (!ipaddr.isValid(host) && !name.includes("."));
}
