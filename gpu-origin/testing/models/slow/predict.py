import time

from cog import BaseRunner


class Runner(BaseRunner):
    """Can be canceled politely: it sleeps in short steps."""

    def run(self, seconds: float = 1.0, spin: bool = False) -> str:
        print("begun")
        end = time.time() + seconds
        while time.time() < end:
            time.sleep(0.01)
        return "done"
