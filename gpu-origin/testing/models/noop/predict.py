from cog import BaseRunner


class Runner(BaseRunner):
    def run(self, text: str = "hello", times: int = 1, note: str | None = None) -> str:
        return text * times
