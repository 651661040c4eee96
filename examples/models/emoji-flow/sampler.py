"""Draws pictures from emoji-flow's weights: plain numpy, one thread. Written by train/train.py, whose network this repeats."""

import zipfile
from pathlib import Path

# numpy whose functions pass gradients on: finetune.py learns through the same network.
import autograd.numpy as np
import numpy
from autograd.extend import defvjp, primitive

TEXT_SCALE = 8.0
BLOCKS = 4
# The last step goes from here to the picture at once. Measured against the training pictures: nearer than even steps.
LAST_TIME = 0.3
# Unpacked bytes of a fine-tune's file: 2 MB for ten pictures.
FINE_TUNE_BYTES_MAX = 20_000_000
NOT_OURS = "replicate_weights is not a file that a training of this model made"
# Those that a fine-tune changes.
LAYERS = ["in", "text", "out"] + [f"block{i}.{part}" for i in range(BLOCKS) for part in ("shift", "up", "down")]


class EmojiFlow:
    def __init__(self, path=Path(__file__).parent / "weights" / "emoji-flow.npz"):
        stored = numpy.load(path)
        self.weights = {name: stored[name].astype(numpy.float32) for name in stored.files if name != "size"}
        self.weights["basis"] *= self.weights.pop("basis_scale")
        self.size = int(stored["size"])
        self.base_latent = len(self.weights["basis"])

    def fine_tuned(self, path):
        """This model with the changes that finetune.py wrote to `path`: its latent grows by some directions, and its layers get a LoRA."""
        result = object.__new__(EmojiFlow)
        result.size, result.base_latent = self.size, self.base_latent
        tune = read_fine_tune(path)
        directions = len(tune.get("basis", ()))
        expected = {"basis": (directions, self.weights["basis"].shape[1]), "spread": (directions,)}
        expected |= {"in.rows": (directions, self.weights["in.w"].shape[1]), "out.columns": (self.weights["out.w"].shape[0], directions)}
        for name in LAYERS:
            rank = tune[f"{name}.lora_a"].shape[-1] if f"{name}.lora_a" in tune else 0
            inputs, outputs = self.weights[f"{name}.w"].shape
            expected[f"{name}.lora_a"] = (inputs + directions * (name == "in"), rank)
            expected[f"{name}.lora_b"] = (rank, outputs + directions * (name == "out"))
        if {name: value.shape for name, value in tune.items()} != expected:
            raise ValueError(NOT_OURS)
        result.weights = merge(self.weights, tune)
        return result

    def sample(self, embedding, seed, steps, guidance):
        """One picture, float32 (size, size, 3) in 0..1, of the unit vector `embedding`."""
        return self.sample_all(embedding[None], [seed], steps, guidance)[0]

    def sample_all(self, embeddings, seeds, steps, guidance):
        """A picture for each row of `embeddings`, with its own seed."""
        count = len(seeds)
        text = numpy.concatenate([numpy.zeros_like(embeddings), embeddings]) * numpy.float32(TEXT_SCALE)
        dropped = numpy.repeat(numpy.array([[1], [0]], numpy.float32), count, 0)
        x = numpy.stack([self._noise(seed) for seed in seeds])
        times = numpy.append(numpy.linspace(1, LAST_TIME, steps), 0).astype(numpy.float32)
        for time, following in zip(times[:-1], times[1:]):
            both = velocity(self.weights, numpy.concatenate([x, x]), numpy.repeat(time, 2 * count), text, dropped)
            without, with_text = both[:count], both[count:]
            x = x - (time - following) * (without + numpy.float32(guidance) * (with_text - without))
        flat = (x * self.weights["spread"]) @ self.weights["basis"] + self.weights["mean"]
        return numpy.clip((flat.reshape(count, self.size, self.size, 3) + 1) / 2, 0, 1)

    def _noise(self, seed):
        # That of a fine-tune's own directions comes after, so that a seed means the same picture with it and without.
        rng = numpy.random.default_rng(seed)
        grown = len(self.weights["basis"]) - self.base_latent
        return numpy.concatenate([rng.standard_normal(self.base_latent), rng.standard_normal(grown)]).astype(numpy.float32)

    def encode(self, pictures):
        """Latents of pictures, float32 (n, size, size, 3) in 0..1."""
        flat = pictures.reshape(len(pictures), -1) * 2 - 1
        return (flat - self.weights["mean"]) @ self.weights["basis"].T / self.weights["spread"]


def velocity(weights, x, time, text, dropped):
    """Where the rows of `x` move at `time` (n), given the rows of `text`; without a text where `dropped` (n, 1) is 1."""

    def linear(name, y):
        result = y @ weights[f"{name}.w"] + weights[f"{name}.b"]
        if f"{name}.lora_a" in weights:
            result = result + (y @ weights[f"{name}.lora_a"]) @ weights[f"{name}.lora_b"]
        return result

    phase = time[:, None] * 1000 * numpy.exp(-numpy.arange(32, dtype=numpy.float32) * 0.29)
    clock = linear("time", numpy.concatenate([numpy.sin(phase), numpy.cos(phase)], -1).astype(numpy.float32))
    condition = clock + dropped * weights["no_text.b"] + (1 - dropped) * linear("text", text)
    condition = condition / (1 + np.exp(-condition))
    h = linear("in", x)
    for i in range(BLOCKS):
        centered = h - np.mean(h, -1, keepdims=True)
        y = centered / np.sqrt(np.mean(centered * centered, -1, keepdims=True) + 1e-5)
        scale, shift = np.split(linear(f"block{i}.shift", condition), 2, -1)
        up = linear(f"block{i}.up", y * (1 + scale) + shift)
        h = h + linear(f"block{i}.down", gelu(up))
    return linear("out", h)


@primitive
def gelu(x):
    """The same tanh form as in training."""
    return 0.5 * x * (1 + numpy.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def gelu_slope(_, x):
    t = numpy.tanh(0.7978845608 * (x + 0.044715 * x * x * x))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x)
    return lambda g: g * slope


# By hand: the derived form overflows, and takes a third longer.
defvjp(gelu, gelu_slope)


def merge(weights, tune):
    """All weights with those of `tune`: the latent grows by directions, some layers get a LoRA. Gradients pass."""
    return {
        **weights,
        **tune,
        "basis": np.concatenate([weights["basis"], tune["basis"]]),
        "spread": np.concatenate([weights["spread"], tune["spread"]]),
        "in.w": np.concatenate([weights["in.w"], tune["in.rows"]]),
        "out.w": np.concatenate([weights["out.w"], tune["out.columns"]], 1),
        "out.b": np.concatenate([weights["out.b"], numpy.zeros(len(tune["basis"]), numpy.float32)]),
    }


def read_fine_tune(path):
    """What finetune.py wrote; a ValueError for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > FINE_TUNE_BYTES_MAX:
                raise ValueError
        with numpy.load(path, allow_pickle=False) as stored:
            return {name: stored[name].astype(numpy.float32) for name in stored.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError):
        raise ValueError(NOT_OURS) from None
