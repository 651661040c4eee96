import os

from cog import BaseRunner, Path


class Runner(BaseRunner):
    def run(self, gigabytes: int = 0) -> Path:
        """A file of that size without contents, which takes no room where it lies."""
        path = "/tmp/output.bin"
        with open(path, "wb") as out:
            out.write(b"own")
        if gigabytes > 0:
            os.truncate(path, gigabytes * 1024**3)
        return Path(path)
