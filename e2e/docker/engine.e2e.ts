/**
 * The engine that tests start for themselves leaves the machine as it was. Each case runs in namespaces of its own, so that what else goes on here is not
 * counted: interfaces, rules, mounts, processes, control groups and folders are compared before and after.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";

const WITH_ENGINE = join(import.meta.dirname, "../engine/with-engine.ts");
const CASE_TIMEOUT_MS = 100_000;

const SNAPSHOT = `snapshot() {
  ip -o address; ip route; iptables-save | grep -v '^#'; cat /proc/sys/net/ipv4/ip_forward
  cat /proc/self/mounts
  ls -d /tmp/cogway-engine-* /etc/docker /run/docker /run/containerd /var/lib/docker /var/lib/containerd 2>/dev/null
  ls -R /etc/docker /run/docker 2>/dev/null
  find /sys/fs/cgroup -maxdepth 2 -name 'cogway-engine-*' -o -maxdepth 2 -name docker
  ps -eo args | grep -E 'dockerd|containerd|slirp4netns|tini|sleep' | grep -v grep
}`;

/** Something of everything that an engine makes. */
const MAKE = `docker network create --internal inner >/dev/null &&
  docker run -d --network inner local/base:bookworm sleep 1000 >/dev/null &&
  docker run -d -p 127.0.0.1:5000:5000 local/base:bookworm sleep 1000 >/dev/null && echo made`;

/** Lines that came and lines that went; what the script wrote. */
function compare(script: string): { output: string; difference: string } {
  const whole = `${SNAPSHOT}
ip link set lo up
# Those of other engines come and go.
awk '$1 == "overlay" || $1 == "nsfs" { print $2 }' /proc/self/mounts | xargs -r umount -l
folder=$(mktemp -d); trap 'rm -r "$folder"' EXIT
snapshot | grep -v buildkit- | sort >"$folder/before"
${script}
for i in $(seq 50); do snapshot | grep -v buildkit- | sort >"$folder/after"; cmp -s "$folder/before" "$folder/after" && break; sleep 0.1; done
echo difference:
diff "$folder/before" "$folder/after"; true`;
  const spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const { COGWAY_TEST_DOCKER_HOST: _, DOCKER_HOST: __, ...env } = process.env;
  const result = spawnSync("unshare", [...spaces, "bash", "-c", whole], {
    env,
    encoding: "utf8",
    timeout: CASE_TIMEOUT_MS,
  });
  const [output = "", difference] = result.stdout.split("difference:\n");
  return { output, difference: difference ?? `no comparison: ${result.stdout}${result.stderr}` };
}

const engine = (command: string): string => `"${process.execPath}" "${WITH_ENGINE}" bash -c '${command}'`;

test("nothing is left of an engine whose command has ended, and its exit code is the command's", () => {
  const { output, difference } = compare(`${engine(`${MAKE}; exit 3`)}; echo "code $?"`);
  expect(output).toContain("made");
  expect(output).toContain("code 3");
  expect(difference).toBe("");
});

test("nothing is left of an engine that is told to end while containers run", () => {
  const { output, difference } = compare(`
${engine(`${MAKE}; sleep 1000`)} >"$folder/output" & engine=$!
for i in $(seq 600); do grep -q made "$folder/output" && break; sleep 0.1; done
kill -TERM $engine; wait $engine; echo "code $?"; cat "$folder/output"`);
  expect(output).toContain("made");
  expect(output).toContain("code 143");
  expect(difference).toBe("");
});

test("of an engine that is killed nothing runs on, and what it made of the network and of mounts is gone", () => {
  const { output, difference } = compare(`
${engine(`${MAKE}; sleep 1000`)} >"$folder/output" & engine=$!
for i in $(seq 600); do grep -q made "$folder/output" && break; sleep 0.1; done
kill -KILL $engine; wait $engine; cat "$folder/output"`);
  expect(output).toContain("made");
  const left = difference.split("\n").filter((line) => /^[<>]/.test(line));
  // Its folder and its control groups, which a later start removes once they are old.
  expect(left.filter((line) => !/\/cogway-engine-/.test(line))).toEqual([]);
  for (const name of new Set(left.join("\n").match(/cogway-engine-\w+/g))) {
    const groups = `find /sys/fs/cgroup -depth -type d -path '*/${name}*' -exec rmdir {} +`;
    spawnSync("bash", ["-c", `${groups}; rm -r /tmp/${name}`]);
  }
});

test("where none can be started one line says why, and the command is not run", () => {
  const { COGWAY_TEST_DOCKER_HOST: _, ...env } = process.env;
  const script = `mount -t tmpfs none /dev/net && exec ${engine("echo ran")}`;
  const { status, stdout, stderr } = spawnSync("unshare", ["--mount", "bash", "-c", script], { env, encoding: "utf8" });
  expect({ status, stdout }).toEqual({ status: 75, stdout: "" });
  expect(stderr).toBe("no engine: /dev/net/tun is missing\n");
});
