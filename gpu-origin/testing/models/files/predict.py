import os
import tempfile
from typing import Any

from cog import BaseRunner, Path


class Runner(BaseRunner):
    def run(self, kind: str = "one", size: int = 10) -> Any:
        if kind == "text":
            return "data: is not a file"
        if kind == "one":
            return write("out.png", b"1" * size)
        if kind == "named":
            return write("a b\u00e9#?.txt", b"n" * size)
        if kind == "nested":
            return {"caption": "two", "pictures": [write("out.png", b"p"), write("out.png", b"q")], "n": 2}
        return None


def write(name, data):
    path = os.path.join(tempfile.mkdtemp(), name)
    with open(path, "wb") as out:
        out.write(data)
    return Path(path)
