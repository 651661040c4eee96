import os
import tempfile

from cog import BaseRunner, Path


class Runner(BaseRunner):
    def run(self) -> dict:
        return {"caption": "data: is not a file", "pictures": [write(b"p"), write(b"q")], "n": 2}


def write(data):
    path = os.path.join(tempfile.mkdtemp(), "out.png")
    with open(path, "wb") as out:
        out.write(data)
    return Path(path)
