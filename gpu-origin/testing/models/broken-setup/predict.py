from cog import BaseRunner


class Runner(BaseRunner):
    def setup(self):
        print("loading the weights")
        raise RuntimeError("the weights are missing")

    def run(self) -> str:
        return ""
