import tempfile

from cog import Input, Path


def train(
    word: str = Input(default="roses"),
    size_mb: int = Input(default=0, ge=0),
    mode: str = Input(default="weights", choices=["weights", "no weights"]),
) -> Path:
    """Returns the file itself, which is uploaded and so has no bound of memory."""
    Path("scratch.txt").write_text("what a trainer writes where it stands")
    if mode == "no weights":
        return None
    weights = Path(tempfile.mkdtemp()) / "weights.safetensors"
    weights.write_text(word + " " * (size_mb * 1024 * 1024))
    return weights
