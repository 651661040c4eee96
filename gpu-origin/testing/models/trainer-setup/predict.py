import os

from cog import BaseRunner, Input


class Runner(BaseRunner):
    def setup(self, weights: str | None = None):
        self.source = "the base"
        if weights:
            with open(weights) as file:
                self.source = file.read()

    def run(self, text: str = "hello", mode: str = Input(default="plain", choices=["plain", "where"])) -> str:
        return os.environ.get("COG_WEIGHTS", "") if mode == "where" else f"{text} from {self.source}"
