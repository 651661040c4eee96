import os
import tempfile

from cog import BaseRunner, Path


class Runner(BaseRunner):
    """A list of files of very different sizes, which coglet would upload in parallel and return in the order of their ends."""

    def run(self, count: int = 4) -> list[Path]:
        folder = tempfile.mkdtemp()
        paths = []
        for i in range(count):
            path = os.path.join(folder, f"part{i}.txt")
            with open(path, "wb") as out:
                out.write(str(i).encode() * (2_000_000 if i == 0 else 1))
            paths.append(Path(path))
        return paths
