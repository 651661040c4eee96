import os
import tempfile
from typing import Iterator

from cog import BaseRunner, Path


class Runner(BaseRunner):
    def run(self, count: int = 3) -> Iterator[Path]:
        for i in range(count):
            path = os.path.join(tempfile.mkdtemp(), "frame.png")
            with open(path, "wb") as out:
                out.write(f"frame {i}".encode())
            yield Path(path)
