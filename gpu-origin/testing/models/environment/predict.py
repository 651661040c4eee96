import os
import tempfile

from cog import BaseRunner


class Runner(BaseRunner):
    def setup(self):
        print("setting up")

    def run(self) -> dict:
        return {"env": dict(os.environ), "tmp": tempfile.gettempdir(), "cwd": os.getcwd()}
