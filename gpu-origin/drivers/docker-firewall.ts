/**
 * Rules of the host's packet filter for the bridges of instances, by iptables. The engine keeps bridges apart from each other and, where a network is
 * internal, from everything beyond the host; it does not keep a container from the host itself, where whatever listens on all addresses answers on the
 * bridge's. The rules close that but for the file servers, and keep instances with egress to public addresses. They match bridges by the start of their
 * names, so one set serves all instances of all origins of a host; the last origin takes them away.
 */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";
import ipaddr from "ipaddr.js";

/** Starts of the names of bridges without and with egress; a name has at most 15 characters. */
export const INTERNAL_BRIDGE = "cwi";
export const EGRESS_BRIDGE = "cwe";
/** Port of the file servers, each on its own bridge's address. Below the range from which systems give ports. */
export const FILES_PORT = 28_788;

const INPUT_CHAIN = "COGWAY-INPUT";
const EGRESS_CHAIN = "COGWAY-EGRESS";
/** The engine runs this chain before its own rules, and leaves it to others. */
const FORWARD_CHAIN = "DOCKER-USER";
const TIMEOUT_MS = 10_000;
/** Addresses that are not public: RFC 6890 and its kin, clouds' metadata services among them. */
const PRIVATE_RANGES = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/3",
];
const ESTABLISHED = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"];

type Run = (args: string[]) => Promise<void>;

/** The rules, as arguments of iptables. `nameservers` may be asked for names though they are private. */
export function chains(
  nameservers: string[],
): { chain: string; rules: string[][]; jumps: { from: string; rule: string[] }[] }[] {
  const input = [
    [...ESTABLISHED, "-j", "ACCEPT"],
    ["-p", "tcp", "--dport", String(FILES_PORT), "-j", "ACCEPT"],
    ["-j", "DROP"],
  ];
  const names = nameservers.flatMap((address) =>
    ["udp", "tcp"].map((protocol) => ["-d", address, "-p", protocol, "--dport", "53", "-j", "RETURN"]),
  );
  const egress = [
    [...ESTABLISHED, "-j", "RETURN"],
    ...names,
    ...PRIVATE_RANGES.map((range) => ["-d", range, "-j", "DROP"]),
    ["-j", "RETURN"],
  ];
  const jump = (bridge: string, chain: string): string[] => ["-i", `${bridge}+`, "-j", chain];
  return [
    {
      chain: INPUT_CHAIN,
      rules: input,
      jumps: [INTERNAL_BRIDGE, EGRESS_BRIDGE].map((bridge) => ({ from: "INPUT", rule: jump(bridge, INPUT_CHAIN) })),
    },
    { chain: EGRESS_CHAIN, rules: egress, jumps: [{ from: FORWARD_CHAIN, rule: jump(EGRESS_BRIDGE, EGRESS_CHAIN) }] },
  ];
}

/** Puts the rules in place, where they are not; chains are filled anew. Null, or one line that says why it cannot be done. */
export async function raiseFirewall(run: Run = iptables): Promise<string | null> {
  try {
    for (const { chain, rules, jumps } of chains(nameservers())) {
      // Filled before anything jumps there; a second origin fills it with the same.
      await run(["-N", chain]).catch(() => {});
      await run(["-F", chain]);
      for (const rule of rules) await run(["-A", chain, ...rule]);
      for (const { from, rule } of jumps) {
        await run(["-C", from, ...rule]).catch(() => run(["-I", from, "1", ...rule]));
      }
    }
    return null;
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return text.trim().split("\n").at(-1) ?? "iptables failed";
  }
}

/** Takes them away when no instance's bridge is left on the host. */
export async function lowerFirewall(run: Run = iptables): Promise<void> {
  const bridges = readdirSync("/sys/class/net");
  if (bridges.some((name) => name.startsWith(INTERNAL_BRIDGE) || name.startsWith(EGRESS_BRIDGE))) return;
  for (const { chain, jumps } of chains([])) {
    for (const { from, rule } of jumps) await run(["-D", from, ...rule]).catch(() => {});
    await run(["-F", chain]).catch(() => {});
    await run(["-X", chain]).catch(() => {});
  }
}

async function iptables(args: string[]): Promise<void> {
  // Administrators' programs lie where not every PATH looks. -w waits for other users of the tables.
  const env = { PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
  await promisify(execFile)("iptables", ["-w", "5", ...args], { env, timeout: TIMEOUT_MS });
}

/** IPv4 addresses that the host asks for names, without those on itself, which the engine asks in the containers' stead. */
function nameservers(): string[] {
  try {
    const lines = readFileSync("/etc/resolv.conf", "utf8").split("\n");
    const addresses = lines.flatMap((line) => /^nameserver\s+(\S+)/.exec(line)?.[1] ?? []);
    return addresses.filter((address) => ipaddr.IPv4.isValid(address) && !address.startsWith("127."));
  } catch {
    return [];
  }
}
