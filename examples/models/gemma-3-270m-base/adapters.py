"""Engines by the weights of a fine-tune, so that all fine-tunes share one warm instance."""

import hashlib
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

import gguf

from engine import Engine

# Engines kept besides the base model's. The weights are mapped from disk once for all; each engine adds about 100 MB and half a second.
KEPT = 2
BYTES_MAX = 50_000_000


class Adapters:
    def __init__(self):
        self.base = None
        self.kept = OrderedDict()
        self.folder = Path(tempfile.mkdtemp())

    def engine(self, weights):
        """The engine with the adapter at the path `weights`, or the base model's for None."""
        if weights is None:
            if self.base is None:
                self.base = Engine()
            return self.base
        digest = checked_digest(weights)
        if digest not in self.kept:
            while len(self.kept) >= KEPT:
                old, _ = self.kept.popitem(last=False)
                (self.folder / old).unlink()
            # A copy, since the input goes away with its prediction.
            shutil.copy(weights, self.folder / digest)
            self.kept[digest] = Engine(self.folder / digest)
        self.kept.move_to_end(digest)
        return self.kept[digest]


def checked_digest(path):
    """The SHA-256 of an adapter for this model; a ValueError for anything else, which llama.cpp might not survive."""
    if Path(path).stat().st_size > BYTES_MAX:
        raise ValueError(f"replicate_weights has more than {BYTES_MAX // 1_000_000} MB: it is no weights of a training of this model")
    try:
        reader = gguf.GGUFReader(path)
        kind, architecture = (reader.fields[f"general.{name}"].contents() for name in ("type", "architecture"))
    except Exception:  # Whatever a reader raises on bytes that are no such file.
        raise ValueError("replicate_weights is not a file that a training of this model made") from None
    if (kind, architecture) != ("adapter", "gemma3"):
        raise ValueError(f"replicate_weights holds a {kind} for {architecture}, not an adapter for gemma3")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
