import time

from cog import BaseRunner


class Runner(BaseRunner):
    def setup(self):
        print("loading the weights")
        # coglet itself loses what is printed in the last milliseconds before a failure.
        time.sleep(0.3)
        raise RuntimeError("the weights are missing")

    def run(self) -> str:
        return ""
