import os
import time

from cog import BaseRunner


class Runner(BaseRunner):
    """One blocking call: Python cannot interrupt it."""

    def run(self, seconds: float = 0.0) -> int:
        if seconds > 0:
            time.sleep(seconds)
        return os.getpid()
