"""Draws pictures from emoji-flow's weights: plain numpy, one thread. Written by train/train.py, whose network this repeats."""

from pathlib import Path

import numpy as np

TEXT_SCALE = 8.0
BLOCKS = 4
# The last step goes from here to the picture at once. Measured against the training pictures: nearer than even steps.
LAST_TIME = 0.3


class EmojiFlow:
    def __init__(self, path=Path(__file__).parent / "weights" / "emoji-flow.npz"):
        stored = np.load(path)
        self.weights = {name: stored[name].astype(np.float32) for name in stored.files if name != "size"}
        self.weights["basis"] *= self.weights["basis_scale"]
        self.size = int(stored["size"])
        self.latent = self.weights["basis"].shape[0]

    def _linear(self, name, x):
        return x @ self.weights[f"{name}.w"] + self.weights[f"{name}.b"]

    def _velocities(self, x, time, text):
        """Velocities of `x` without and with the text, as two rows."""
        phase = time * 1000 * np.exp(-np.arange(32, dtype=np.float32) * 0.29)
        clock = self._linear("time", np.concatenate([np.sin(phase), np.cos(phase)]).astype(np.float32))
        condition = clock + np.stack([self.weights["no_text.b"], self._linear("text", text)])
        condition = condition / (1 + np.exp(-condition))
        h = self._linear("in", np.repeat(x, 2, 0))
        for i in range(BLOCKS):
            centered = h - h.mean(-1, keepdims=True)
            y = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
            scale, shift = np.split(self._linear(f"block{i}.shift", condition), 2, -1)
            up = self._linear(f"block{i}.up", y * (1 + scale) + shift)
            # The same tanh form of GELU as in training.
            up = 0.5 * up * (1 + np.tanh(0.7978845608 * (up + 0.044715 * up**3)))
            h = h + self._linear(f"block{i}.down", up)
        return self._linear("out", h)

    def sample(self, embedding, seed, steps, guidance):
        """One picture, float32 (size, size, 3) in 0..1, of the unit vector `embedding`."""
        text = embedding * np.float32(TEXT_SCALE)
        x = np.random.default_rng(seed).standard_normal((1, self.latent)).astype(np.float32)
        times = np.append(np.linspace(1, LAST_TIME, steps), 0).astype(np.float32)
        for time, following in zip(times[:-1], times[1:]):
            without, with_text = self._velocities(x, time, text)
            x = x - (time - following) * (without + np.float32(guidance) * (with_text - without))
        flat = (x * self.weights["spread"]) @ self.weights["basis"] + self.weights["mean"]
        return np.clip((flat.reshape(self.size, self.size, 3) + 1) / 2, 0, 1)
