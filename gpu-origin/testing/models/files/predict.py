import os
import tempfile

from cog import BaseRunner, Path


class Runner(BaseRunner):
    def run(self, name: str = "out.png", size: int = 10) -> Path:
        path = os.path.join(tempfile.mkdtemp(), name)
        with open(path, "wb") as out:
            out.write(b"1" * size)
        return Path(path)
