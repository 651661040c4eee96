from cog import BaseRunner, ConcatenateIterator


class Runner(BaseRunner):
    def run(self, lines: int = 0, tokens: int = 0) -> ConcatenateIterator[str]:
        for i in range(lines):
            print(f"line {i} " + "x" * 200)
        for i in range(tokens):
            yield f"{i} "
