"""A trainer without machine learning: its weights are the words of the data set. `mode` makes it go wrong in the ways that trainers do."""

import os
import tempfile
import time
import zipfile

from cog import BaseModel, Input, Path, current_scope


class TrainingOutput(BaseModel):
    weights: Path


def train(
    train_data: Path = Input(description="zip of text files"),
    steps: int = Input(default=3, ge=1, le=10_000),
    pause_s: float = Input(default=0.0, ge=0),
    size_mb: int = Input(default=0, ge=0, description="the weights are filled up by as much"),
    mode: str = Input(default="train", choices=["train", "crash", "raise", "blocking"]),
) -> TrainingOutput:
    with zipfile.ZipFile(train_data) as archive:
        words = [archive.read(name).decode().strip() for name in sorted(archive.namelist())]
    print(f"{len(words)} files in process {os.getpid()}")
    for step in range(1, steps + 1):
        time.sleep(60 if mode == "blocking" else pause_s)
        print(f"step {step}/{steps}")
        current_scope().record_metric("loss", 1 / step)
        if step == 2 and mode == "crash":
            # What was printed in the last millisecond dies with the process now and then.
            time.sleep(0.1)
            os._exit(3)
        if step == 2 and mode == "raise":
            raise ValueError("the data set is bad")
    weights = Path(tempfile.mkdtemp()) / "weights.txt"
    weights.write_text(" ".join(words) + " " * (size_mb * 1024 * 1024))
    return TrainingOutput(weights=weights)
