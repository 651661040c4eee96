"""Attempts to reach, read or change something outside of the container. Each returns what it got (an escape), or None; a refusal by an exception is None too.

`world` is what the test knows: addresses of canaries and of another container, marks that must not be readable, files of the host. A probe is told more than
a real attacker would know."""

import ctypes
import glob
import http.client
import multiprocessing
import os
import platform
import re
import shutil
import socket
import stat
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

PROBE_TIMEOUT_S = 20
PROBES_AT_ONCE = 12
CONNECT_TIMEOUT_S = 1.0
SCAN_FILE_BYTES_MAX = 1_000_000

libc = ctypes.CDLL(None, use_errno=True)
PROBES = {}


def probe(function):
    PROBES[function.__name__] = function
    return function


def run(names, world):
    """Name of each of these probes -> what it got, or null. Several at a time: most wait for answers that do not come."""
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        return dict(zip(names, pool.map(lambda name: _run(PROBES[name], world), names)))


def _run(function, world):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(function, world, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(PROBE_TIMEOUT_S) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def _in_child(function, world, sender):
    try:
        got = function(world)
    except (Exception, SystemExit):
        got = None
    sender.send(None if got is None else str(got))


def syscall(number, *args):
    """Result of a raw system call; raises OSError on refusal."""
    if platform.machine() != "x86_64":
        raise OSError("numbers of x86_64 only")
    result = libc.syscall(number, *args)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def connects(host, port):
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as connection:
            connection.sendall(b"escape\r\n")
            return f"connected to {host}:{port}"
    except OSError:
        return None


def first(values):
    return next((value for value in values if value is not None), None)


def own_addresses():
    """IPv4 addresses of this container's interfaces, by SIOCGIFADDR."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe_socket, 0x8915, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
            except OSError:
                pass
    return found


def host_addresses(world):
    """Where the host may be: its own addresses, default gateways, and the first address of each network that this container is in."""
    gateways = []
    with open("/proc/net/route") as routes:
        for line in routes.readlines()[1:]:
            fields = line.split()
            gateways += [socket.inet_ntoa(struct.pack("<L", int(fields[column], 16))) for column in (1, 2)]
    nets = []
    for address in own_addresses():
        octets = [int(part) for part in address.split(".")]
        for size in (16, 8, 4):
            nets.append(".".join(map(str, octets[:3] + [octets[3] // size * size + 1])))
        nets.append(".".join(map(str, octets[:2] + [0, 1])))
    known = ["127.0.0.1", "172.17.0.1", "10.0.2.2", "host.docker.internal", "host.containers.internal", "gateway.docker.internal"]
    unique = dict.fromkeys([*world.get("host_addresses", []), *gateways, *nets, *known])
    return [address for address in unique if address != "0.0.0.0" and address not in own_addresses()[1:]]


# ---- network


@probe
def metadata_address(world):
    return first(connects(host, 80) for host in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "metadata.google.internal"))


@probe
def host_port_on_all_addresses(world):
    return first(connects(host, world["canary_port"]) for host in host_addresses(world))


@probe
def host_port_on_loopback(world):
    return first(connects(host, world["loopback_port"]) for host in host_addresses(world))


@probe
def origin_port(world):
    return first(connects(host, world["origin_port"]) for host in host_addresses(world))


@probe
def edge_port(world):
    return first(connects(host, world["edge_port"]) for host in host_addresses(world))


@probe
def engine_by_socket(world):
    paths = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", world.get("engine_socket", "/nowhere")]
    for path in paths:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONNECT_TIMEOUT_S)
            try:
                client.connect(path)
                return f"connected to {path}"
            except OSError:
                pass
    with open("/proc/net/unix") as sockets:
        for line in sockets.readlines()[1:]:
            name = line.split()[-1]
            if name.startswith("@") and ("docker" in name or "containerd" in name):
                return f"sees {name}"
    return first(connects(host, port) for host in host_addresses(world)[:4] for port in (2375, 2376))


@probe
def another_container(world):
    return first(connects(host, port) for host, port in world.get("neighbours", []))


@probe
def another_instances_file_server(world):
    return first(connects(host, port) for host, port in world.get("file_servers", []))


@probe
def names_of_the_internet(world):
    socket.setdefaulttimeout(CONNECT_TIMEOUT_S)
    names = [*world.get("names", []), "example.com"]
    for name in names:
        try:
            return f"{name} is {socket.getaddrinfo(name, 443)[0][4][0]}"
        except OSError:
            pass
    # id, recursion, one question: the first name's A
    labels = b"".join(bytes([len(label)]) + label.encode() for label in names[0].split("."))
    question = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\x00" + struct.pack(">HH", 1, 1)
    for server in (*world.get("name_servers", []), "8.8.8.8", "1.1.1.1", "127.0.0.11", *host_addresses(world)[:3]):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(CONNECT_TIMEOUT_S)
            try:
                client.sendto(question, (server, 53))
                answer = client.recv(512)
                if answer[:2] == question[:2] and struct.unpack(">H", answer[6:8])[0] > 0:
                    return f"{server} answers"
            except OSError:
                pass
    return None


@probe
def public_addresses(world):
    return first(connects(host, port) for host, port in [*world.get("public", []), ("1.1.1.1", 443), ("8.8.8.8", 53)])


@probe
def private_addresses(world):
    return first(connects(host, world["canary_port"]) for host in world.get("host_addresses", []))


@probe
def raw_socket(world):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "opened"


@probe
def packet_socket(world):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):
        return "opened"


@probe
def change_of_routes(world):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        # RTM_NEWROUTE of a default route by the first interface that is not loopback
        index = socket.if_nameindex()[-1][0]
        route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 253, 1, 0) + struct.pack("=HHI", 8, 4, index)
        head = struct.pack("=LHHLL", 16 + len(route), 24, 0x0605, 1, 0)
        link.send(head + route)
        error = struct.unpack("=i", link.recv(4096)[16:20])[0]
        return "a default route was added" if error == 0 else None


@probe
def file_server_for_another_prediction(world):
    """This instance's own file server, in the name of a prediction that runs elsewhere."""
    host, port, secret = upload_target()
    connection = http.client.HTTPConnection(host, port, timeout=5)
    ids = [*world.get("other_predictions", []), "a" * 26 + "a1", "../../x", ""]
    for other in ids:
        connection.request("PUT", f"/{secret}/outputs/stolen.txt", b"stolen", {"x-prediction-id": other})
        answer = connection.getresponse()
        answer.read()
        if answer.status < 300:
            return f"{answer.status} for {other}"
        connection.close()
    return None


@probe
def file_server_beyond_its_paths(world):
    host, port, secret = upload_target()
    paths = ["/", "/v1/instances", "/healthz", f"/{secret}/../../etc/passwd", f"/{secret}/inputs/", f"/{secret}/outputs/", "//etc/passwd"]
    for path in [*paths, *[f"/{secret}/inputs/{other}/x/y" for other in world.get("other_predictions", [])]]:
        for method in ("GET", "POST", "DELETE"):
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.request(method, path)
            if connection.getresponse().status < 400:
                return f"{method} {path}"
    return None


def upload_target():
    """Address and secret path of the file server, from the arguments that coglet was started with."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                found = re.search(rb"http://([^:/\0]+):(\d+)/([^/\0]+)/outputs", file.read())
        except OSError:
            continue
        if found:
            return found[1].decode(), int(found[2]), found[3].decode()
    raise LookupError("no upload address")


# ---- kernel and privileges


@probe
def write_to_proc(world):
    for path, text in [
        ("/proc/sys/kernel/hostname", "escaped"),
        ("/proc/sys/kernel/core_pattern", "|/tmp/x"),
        ("/proc/sys/vm/overcommit_memory", "1"),
        ("/proc/sys/net/ipv4/ip_forward", "1"),
        ("/proc/sysrq-trigger", "h"),
        ("/proc/self/oom_score_adj", "-1000"),
        ("/proc/1/oom_score_adj", "-1000"),
    ]:
        try:
            with open(path, "w") as file:
                file.write(text)
            return f"wrote {path}"
        except OSError:
            pass
    return None


@probe
def write_to_sys(world):
    for path in ["/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", *glob.glob("/sys/fs/cgroup/**/*limit_in_bytes", recursive=True), *glob.glob("/sys/fs/cgroup/**/*.max", recursive=True)]:
        try:
            with open(path, "r+") as file:
                file.write("-1")
            return f"wrote {path}"
        except OSError:
            pass
    return None


@probe
def cgroup_release_agent(world):
    for path in glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True):
        try:
            with open(path, "w") as file:
                file.write("/tmp/x")
            return f"wrote {path}"
        except OSError:
            pass
    os.makedirs("/tmp/cgroup", exist_ok=True)
    if libc.mount(b"cgroup", b"/tmp/cgroup", b"cgroup", 0, b"memory") == 0:
        return "mounted a cgroup hierarchy"
    return None


@probe
def mount(world):
    os.makedirs("/tmp/mounted", exist_ok=True)
    for source, kind, flags in [(b"tmpfs", b"tmpfs", 0), (b"proc", b"proc", 0), (b"sysfs", b"sysfs", 0), (b"/", b"", 4096), (b"/dev/vda", b"ext4", 0), (b"/dev/sda1", b"ext4", 0)]:
        if libc.mount(source, b"/tmp/mounted", kind, flags, None) == 0:
            return f"mounted {source.decode()} {kind.decode()}"
    return None


@probe
def unmount(world):
    with open("/proc/self/mounts") as mounts:
        targets = [line.split()[1] for line in mounts]
    return first(f"unmounted {target}" if libc.umount2(target.encode(), 2) == 0 else None for target in reversed(targets))


@probe
def remount_root_writable(world):
    return "remounted" if libc.mount(None, b"/", None, 32, None) == 0 else None


@probe
def user_namespace(world):
    return "made" if libc.unshare(0x10000000) == 0 else None


@probe
def other_namespaces(world):
    flags = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000, "net": 0x40000000, "cgroup": 0x2000000}
    return first(name if libc.unshare(flag) == 0 else None for name, flag in flags.items())


@probe
def enter_namespaces(world):
    for path in glob.glob("/proc/[0-9]*/ns/*"):
        if path.startswith(f"/proc/{os.getpid()}/"):
            continue
        try:
            with open(path) as namespace:
                if libc.setns(namespace.fileno(), 0) == 0:
                    return f"entered {path}"
        except OSError:
            pass
    return None


@probe
def processes_of_the_host(world):
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with open(path, "rb") as file:
            command = file.read()
        if any(word in command for word in (b"dockerd", b"containerd", b"workerd", b"gpu-origin/main.ts", b"vitest")):
            return command
    return None


@probe
def trace_of_other_processes(world):
    """Attaches to each process that is not of this user; those of its own it may have."""
    for path in glob.glob("/proc/[0-9]*"):
        if os.stat(path).st_uid != os.getuid() and libc.ptrace(16, int(path.split("/")[2]), 0, 0) == 0:
            return f"attached to {path}"
    return None


@probe
def memory_of_other_processes(world):
    for path in glob.glob("/proc/[0-9]*/mem"):
        if os.stat(os.path.dirname(path)).st_uid == os.getuid():
            continue
        try:
            with open(path, "rb"):
                return f"opened {path}"
        except OSError:
            pass
    return None


@probe
def kernel_memory(world):
    for path in ("/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/kmsg", "/proc/kmsg"):
        try:
            with open(path, "rb") as file:
                if file.read(1):
                    return f"read {path}"
        except OSError:
            pass
    return None


@probe
def device_nodes(world):
    for device in ((254, 0), (8, 0), (259, 0), (1, 1), (10, 200)):
        for folder in ("/tmp", "/dev", "/dev/shm", "/src"):
            path = f"{folder}/node-{device[0]}-{device[1]}"
            try:
                kind = stat.S_IFCHR if device[0] in (1, 10) else stat.S_IFBLK
                os.mknod(path, 0o666 | kind, os.makedev(*device))
                with open(path, "rb") as node:
                    return f"made {path} and read {len(node.read(1))} bytes of it"
            except OSError:
                pass
    return None


@probe
def devices_of_the_host(world):
    for path in ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/loop-control", "/dev/mapper/control", "/dev/vsock"):
        try:
            os.close(os.open(path, os.O_RDWR))
            return f"opened {path}"
        except OSError:
            pass
    return None


@probe
def root_by_setuid(world):
    for change in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        try:
            change()
            return "became root"
        except OSError:
            pass
    shutil.copy("/usr/bin/id", "/tmp/id")
    os.chmod("/tmp/id", 0o6755)
    programs = ["/tmp/id", *[path for path in glob.glob("/usr/bin/*") if os.stat(path).st_mode & stat.S_ISUID]]
    for program in programs:
        arguments = {"su": ["-c", "id -u", "root"]}.get(os.path.basename(program), ["-u"])
        try:
            result = subprocess.run([program, *arguments], capture_output=True, timeout=2, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if result.stdout.strip() == b"0":
            return f"{program} ran as root"
    return "is root" if 0 in os.getresuid() else None


@probe
def capabilities(world):
    with open("/proc/self/status") as status:
        found = dict(line.split(":", 1) for line in status)
    held = [name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(found.get(name, "0"), 16) != 0]
    if held:
        return f"holds {', '.join(held)}"
    return None if found.get("NoNewPrivs", "1").strip() == "1" else "may gain privileges"


@probe
def kernel_module(world):
    return "loaded" if syscall(175, b"\x7fELF", 4, b"") == 0 else None


@probe
def reboot(world):
    # LINUX_REBOOT_CMD_CAD_OFF: as forbidden as the others, and harmless where it is not
    return "allowed" if syscall(169, 0xFEE1DEAD, 672274793, 0, None) == 0 else None


@probe
def bpf(world):
    return f"descriptor {syscall(321, 0, struct.pack('=IIIIII', 2, 4, 4, 1, 0, 0), 24)}"


@probe
def kernel_keys(world):
    return f"key {syscall(248, b'user', b'escape', b'x', 1, -3)}"


@probe
def performance_events(world):
    return f"descriptor {syscall(298, struct.pack('=II', 1, 112) + bytes(104), 0, -1, -1, 0)}"


@probe
def user_faults(world):
    return f"descriptor {syscall(323, 0)}"


@probe
def handles_of_files(world):
    """open_by_handle_at, which read files of the host through docker's first defaults."""
    handle = struct.pack("=Ii", 8, 1) + struct.pack("=II", 2, 0)
    descriptor = os.open("/etc/hosts", os.O_RDONLY)
    return f"descriptor {syscall(304, descriptor, handle, os.O_RDONLY)}"


@probe
def new_root(world):
    os.chroot("/tmp")
    return "changed the root"


@probe
def clock(world):
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set the clock"


# ---- files


@probe
def write_to_the_image(world):
    for folder in ("/", "/etc", "/usr", "/usr/bin", "/usr/local", "/var", "/root", "/home", os.path.dirname(os.__file__), *[path for path in os.sys.path if os.path.isdir(path)]):
        if folder.startswith("/tmp"):
            continue
        try:
            with open(os.path.join(folder, "escape-mark"), "w"):
                return f"wrote to {folder}"
        except OSError:
            pass
    return None


@probe
def write_to_its_source(world):
    here = os.path.dirname(os.path.abspath(__file__))
    for path in (os.path.join(here, "escape-mark"), __file__, os.path.join(here, "cog.yaml"), "/src/weights/escape-mark"):
        try:
            with open(path, "a"):
                return f"opened {path}"
        except OSError:
            pass
    return None


@probe
def files_of_the_host(world):
    canary = world.get("canary_file", "/nowhere")
    for path in (canary, *[f"{root}{canary}" for root in ("/proc/1/root", "/host", "/mnt", "/rootfs", "/proc/self/root/..", "/proc/1/cwd/../../..")]):
        try:
            with open(path) as file:
                return f"read {path}: {file.read(80)}"
        except OSError:
            pass
    return None


@probe
def files_of_other_predictions(world):
    """Anything on disk that holds a mark which came with the input of an earlier prediction of this instance, or of a neighbour."""
    marks = [mark.encode() for mark in world.get("marks", [])]
    for top in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/src", "/home", "/var/lib"):
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                try:
                    if not os.path.isfile(path) or os.path.getsize(path) > SCAN_FILE_BYTES_MAX:
                        continue
                    with open(path, "rb") as file:
                        content = file.read()
                except OSError:
                    continue
                if any(mark in content for mark in marks):
                    return f"found one in {path}"
    return None


@probe
def secrets_of_the_host(world):
    """Marks of secrets that the test knows, in any environment or command line that can be read."""
    marks = [mark.encode() for mark in world.get("secrets", [])]
    for path in [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline")]:
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            continue
        if any(mark in content for mark in marks):
            return f"found one in {path}"
    names = [name for name in os.environ if re.search(r"COGWAY|SECRET|PASSWORD|JOIN|AWS_|DOCKER_HOST", name)]
    return f"environment has {', '.join(names)}" if names else None


@probe
def shared_memory_of_others(world):
    """System V segments are seen by all of an IPC namespace."""
    with open("/proc/sysvipc/shm") as segments:
        return "sees segments" if len(segments.readlines()) > 1 else None


if __name__ == "__main__":
    import json
    import sys

    results = run(list(PROBES), json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    print(json.dumps(results, indent=1))
