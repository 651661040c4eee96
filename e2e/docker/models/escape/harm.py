"""What a model can do to its own instance. None of it may reach the host, another instance, or the next prediction."""

import ctypes
import mmap
import os
import signal
import sys
import threading
import time

MiB = 1024 * 1024


def fork_bomb(world):
    """Children that fork for two seconds, then end; at the limit forking is refused."""
    until = time.monotonic() + 2
    forks = 0
    while time.monotonic() < until:
        try:
            if os.fork() == 0:
                while time.monotonic() < until:
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(0.05)
                os._exit(0)
            forks += 1
        except OSError:
            time.sleep(0.05)
    return f"forked {forks} times"


def thread_bomb(world):
    started = 0
    stop = threading.Event()
    try:
        for _ in range(100_000):
            threading.Thread(target=stop.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    stop.set()
    return f"started {started} threads"


def memory_bomb(world):
    held = []
    while True:
        block = mmap.mmap(-1, 64 * MiB)
        for at in range(0, len(block), 4096):
            block[at] = 1
        held.append(block)


def _fill(folder):
    path = os.path.join(folder, "filler")
    written = 0
    block = os.urandom(MiB)
    try:
        with open(path, "wb", buffering=0) as file:
            while written < 64 * 1024:
                written += file.write(block) // MiB
    except OSError as error:
        return f"{written} MiB, then {error.strerror}"
    finally:
        if not os.environ.get("KEEP_FILLER"):
            try:
                os.unlink(path)
            except OSError:
                pass
    return f"{written} MiB without an end"


def disk_fill(world):
    """Each folder that can be written to, until it refuses. Memory of tmpfs counts as the container's, which may end it."""
    return "; ".join(f"{folder}: {_fill(folder)}" for folder in ("/", "/src", "/var/tmp", "/dev/shm", "/tmp"))


def file_count(world):
    made = 0
    try:
        os.makedirs("/tmp/many", exist_ok=True)
        for made in range(5_000_000):
            os.close(os.open(f"/tmp/many/{made}", os.O_CREAT))
    except OSError as error:
        return f"{made} files, then {error.strerror}"
    return f"{made} files"


def descriptors(world):
    opened = []
    try:
        while len(opened) < 5_000_000:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        result = f"{len(opened)} descriptors, then {error.strerror}"
        for descriptor in opened:
            os.close(descriptor)
        return result
    return "no end of descriptors"


def log_flood(world):
    """1 GB on stdout, in lines of 1 KB, and a single line of 64 MB without an end."""
    block = (b"flood " * 170 + b"xyz\n") * 1024
    for _ in range(int(world.get("flood_mb", 1000))):
        os.write(1, block) if world.get("raw") else sys.stdout.write(block.decode())
    os.write(1, b"y" * 64 * MiB)
    return "flooded"


def native_log_flood(world):
    """The same past Python: to the file descriptor that the engine reads."""
    return log_flood({**world, "raw": True})


def kill_all(world):
    """Every process that this user may signal: coglet, its parent, itself."""
    os.kill(-1, signal.SIGKILL)
    time.sleep(1)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def stop_parent(world):
    """Suspends coglet's server: it neither answers nor ends."""
    for path in os.listdir("/proc"):
        if path.isdigit() and int(path) != os.getpid():
            try:
                os.kill(int(path), signal.SIGSTOP)
            except OSError:
                pass
    time.sleep(600)


def segfault(world):
    ctypes.string_at(0)


def own_predictions(world):
    """Asks its own coglet for predictions that nobody created."""
    import http.client
    import json

    answers = []
    for port in {int(os.environ.get("PORT", "5000")), 5000}:
        for i in range(5):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
                connection.request("PUT", f"/predictions/selfmade{i}", json.dumps({"input": {}}), {"content-type": "application/json", "prefer": "respond-async"})
                answers.append(connection.getresponse().status)
            except OSError as error:
                answers.append(str(error))
    return f"own coglet answered {answers}"


def listen(world):
    import socket

    with socket.socket() as server:
        server.bind(("0.0.0.0", int(world.get("port", 5555))))
        server.listen()
        server.settimeout(float(world.get("seconds", 3)))
        try:
            connection, peer = server.accept()
            connection.close()
            return f"reached by {peer[0]}"
        except TimeoutError:
            return "reached by nobody"


HARMS = {name: value for name, value in list(globals().items()) if callable(value) and getattr(value, "__module__", None) == __name__ and not name.startswith("_")}
