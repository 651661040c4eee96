/**
 * Rules of the host's packet filter for the bridges of instances, by iptables. The engine keeps bridges apart from each other and, where a network is
 * internal, from everything beyond the host; it does not keep a container from the host itself, where whatever listens on all addresses answers on the
 * bridge's. The rules close that but for the file servers, and keep instances with egress to public addresses. They match bridges by the start of their
 * names, so one set serves all instances of all origins of a host.
 */
import { readFileSync } from "node:fs";
import { execa } from "execa";
import ipaddr from "ipaddr.js";

/** Starts of the names of bridges without and with egress; a name has at most 15 characters. */
export const INTERNAL_BRIDGE = "cwi";
export const EGRESS_BRIDGE = "cwe";
/** Port of the file servers, each on its own bridge's address. Below the range from which systems give ports. */
export const FILES_PORT = 28_788;

const INPUT_CHAIN = "COGWAY-INPUT";
const EGRESS_CHAIN = "COGWAY-EGRESS";
const INTERNAL_CHAIN = "COGWAY-INTERNAL";
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
/** At once: a model that tries a connection is not to wait for its time-out. */
const REFUSE = ["REJECT", "--reject-with", "icmp-admin-prohibited"];
const OWN_ADDRESS = ["-m", "addrtype", "--dst-type", "LOCAL", "--limit-iface-in"];
const ESTABLISHED = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"];

/** The rules, as arguments of iptables. `nameservers` may be asked for names though they are private. */
export function chains(
  nameservers: string[],
): { chain: string; rules: string[][]; jumps: { from: string; rule: string[] }[] }[] {
  const input = [
    [...ESTABLISHED, "-j", "ACCEPT"],
    // On the address of its own bridge: the host answers on those of all others too.
    ["-p", "tcp", "--dport", String(FILES_PORT), ...OWN_ADDRESS, "-j", "ACCEPT"],
    ["-j", ...REFUSE],
  ];
  const names = nameservers.flatMap((address) =>
    ["udp", "tcp"].map((protocol) => ["-d", address, "-p", protocol, "--dport", "53", "-j", "RETURN"]),
  );
  const egress = [
    [...ESTABLISHED, "-j", "RETURN"],
    ...names,
    ...PRIVATE_RANGES.map((range) => ["-d", range, "-j", ...REFUSE]),
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
    // The engine would drop it.
    {
      chain: INTERNAL_CHAIN,
      rules: [["-j", ...REFUSE]],
      jumps: [{ from: FORWARD_CHAIN, rule: jump(INTERNAL_BRIDGE, INTERNAL_CHAIN) }],
    },
  ];
}

/** Puts the rules in place, where they are not. Null, or one line that says why it cannot be done. They stay: other origins of the host count on them. */
export async function raiseFirewall(): Promise<string | null> {
  try {
    const all = chains(nameservers());
    // Each chain is emptied and filled in one step.
    const heads = all.map(({ chain }) => `:${chain} - [0:0]\n`);
    const rules = all.flatMap(({ chain, rules }) => rules.map((rule) => `-A ${chain} ${rule.join(" ")}\n`));
    await run("iptables-restore", ["-w", "--noflush"], `*filter\n${heads.join("")}${rules.join("")}COMMIT\n`);
    for (const { from, rule } of all.flatMap(({ jumps }) => jumps)) {
      const isThere = await run("iptables", ["-w", "-C", from, ...rule]).then(
        () => true,
        () => false,
      );
      if (!isThere) await run("iptables", ["-w", "-I", from, "1", ...rule]);
    }
    return null;
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return text.trim().split("\n").at(-1) ?? "iptables failed";
  }
}

async function run(program: string, args: string[], input = ""): Promise<void> {
  // Administrators' programs lie where not every PATH looks.
  const PATH = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;
  await execa(program, args, { input, env: { PATH }, extendEnv: false, timeout: TIMEOUT_MS });
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
