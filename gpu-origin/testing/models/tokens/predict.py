import time

from cog import BaseRunner, ConcatenateIterator


class Runner(BaseRunner):
    """A synchronous generator: its tokens stream live. Fails after `fail_at` tokens."""

    def run(self, count: int = 5, pause_s: float = 0.0, fail_at: int = -1) -> ConcatenateIterator[str]:
        print("first line")
        for i in range(count):
            if i == fail_at:
                raise RuntimeError("broke in the middle")
            yield f"t{i} "
            if pause_s > 0:
                time.sleep(pause_s)
        print("last line")
