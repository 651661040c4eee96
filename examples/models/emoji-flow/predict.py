"""Text to a small picture: emoji-flow, trained from scratch by train/train.py on the pictures of an emoji font."""

import secrets
import tempfile
from pathlib import Path as FilePath
from typing import Optional

from cog import BaseRunner, Input, Path

from minilm import MiniLM
from picture import enlarge, png
from sampler import EmojiFlow


class Runner(BaseRunner):
    def setup(self) -> None:
        self.encoder = MiniLM()
        self.flow = EmojiFlow()

    def run(
        self,
        prompt: str = Input(
            description="What to draw, in a few English words: an animal, a face, food, a plant, a vehicle, the weather.",
            min_length=1,
            max_length=500,
        ),
        size: int = Input(
            description="Side of the picture in pixels. The model draws 64 x 64; larger is resampled.",
            choices=[64, 128, 256, 512],
            default=256,
        ),
        guidance: float = Input(
            description="How strictly the picture follows the prompt. Low values blend pictures, high ones exaggerate.",
            default=2.5,
            ge=0,
            le=10,
        ),
        steps: int = Input(description="Steps from noise to picture; more than 30 change little.", default=30, ge=2, le=200),
        seed: Optional[int] = Input(
            description="The same seed and inputs give the same picture. Without one it is drawn, and told in the logs.",
            ge=0,
            le=2**31 - 1,
        ),
        replicate_weights: Optional[Path] = Input(
            description="Weights that a training of this model made. Without them the base model draws."
        ),
    ) -> Path:
        if not prompt.strip():
            raise ValueError("prompt is empty: say what to draw")
        if seed is None:
            seed = secrets.randbelow(2**31)
            print(f"seed: {seed}")
        # Nothing is kept of a fine-tune: it is 1 MB, and read in 20 ms.
        flow = self.flow if replicate_weights is None else self.flow.fine_tuned(replicate_weights)
        pixels = flow.sample(self.encoder.encode([prompt.strip().lower()])[0], seed, steps, guidance)
        if size > len(pixels):
            pixels = enlarge(pixels, size)
        path = FilePath(tempfile.mkdtemp()) / "emoji.png"
        path.write_bytes(png(pixels))
        return Path(path)
