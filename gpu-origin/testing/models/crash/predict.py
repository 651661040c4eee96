import ctypes
import os
import signal
import time

from cog import BaseRunner


class Runner(BaseRunner):
    def run(self, how: str = "none", pause_s: float = 0.0) -> int:
        print("about to", how, flush=True)
        time.sleep(pause_s)
        if how == "exit":
            os._exit(3)
        if how == "segv":
            ctypes.string_at(0)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise":
            raise ValueError("boom")
        return os.getpid()
