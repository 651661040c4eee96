"""Teaches Gemma 3 270M the style of a user's own lines: a LoRA on attention, in numpy, in about two minutes on one core."""

import secrets
import tempfile
import time
from pathlib import Path as FilePath
from typing import Optional

import numpy
from autograd import value_and_grad
from cog import BaseModel, Input, Path, current_scope
from tqdm import tqdm

from dataset import read_lines
from engine import Engine
from network import Network, cross_entropy, save

# Two rows of 64 tokens a step: a second on two cores.
ROWS = 2
ROW_TOKENS = 64
BEGINNING = 2
# The softmax is over the tokens of the training set and this many others: the whole vocabulary of 262,144 would be half of the work.
OTHER_TOKENS = 4096
# Every tenth line is not trained on, and tells whether more than the lines themselves was learnt.
HELD_OUT_EVERY = 10
# Rows to measure with, before and after, at most.
MEASURE_ROWS = 12
ADAM_DECAY = (0.9, 0.999)


class TrainingOutput(BaseModel):
    weights: Path


def train(
    train_data: Path = Input(
        description="The lines to learn from: .txt (one example a line), .jsonl with text, or with prompt and completion, or a zip with one such "
        "file. At least 10 lines, better 50; at most 5 MB."
    ),
    steps: int = Input(description="Steps of 128 tokens; each takes two seconds of one core.", default=40, ge=1, le=1000),
    learning_rate: float = Input(description="Largest step size; it falls to zero along a cosine.", default=0.003, ge=1e-5, le=0.02),
    seed: Optional[int] = Input(
        description="The same seed and inputs give the same weights on the same kind of CPU. Without one it is drawn, and told in the logs.",
        ge=0,
        le=2**31 - 1,
    ),
) -> TrainingOutput:
    lines = read_lines(train_data)
    if seed is None:
        seed = secrets.randbelow(2**31)
        print(f"seed: {seed}")
    engine = Engine()
    learnt = [line for index, line in enumerate(lines) if index % HELD_OUT_EVERY]
    held_out = [line for index, line in enumerate(lines) if index % HELD_OUT_EVERY == 0]
    tokens, unseen = (numpy.array(engine.tokenize("\n".join(part) + "\n")) for part in (learnt, held_out))
    del engine
    if len(tokens) <= ROW_TOKENS:
        raise ValueError(f"train_data has {len(tokens)} tokens in the lines to learn from; more than {ROW_TOKENS} are needed")
    print(f"{len(learnt)} lines to learn from ({len(tokens)} tokens), {len(held_out)} held out; reading the weights")
    network = Network()
    adapter = fit(network, tokens, unseen, steps, learning_rate, seed)
    path = FilePath(tempfile.mkdtemp()) / "adapter.gguf"
    save(adapter, path)
    return TrainingOutput(weights=Path(path))


def fit(network, tokens, unseen, steps, learning_rate, seed):
    """The LoRA that `steps` of Adam make of `tokens`. Losses on both sets, before and after, go to the log and the metrics."""
    rng = numpy.random.default_rng(seed)
    others = rng.integers(0, network.vocabulary, OTHER_TOKENS)
    used = numpy.unique(numpy.concatenate([tokens, unseen, others, [BEGINNING]]))
    vocabulary = network.embed(used)

    def loss(adapter, rows):
        inputs = numpy.searchsorted(used, rows[:, :-1])
        inputs[:, 0] = numpy.searchsorted(used, BEGINNING)
        return cross_entropy(network.hidden(vocabulary[inputs], adapter), vocabulary, numpy.searchsorted(used, rows[:, 1:]))

    def measure(adapter, sequence):
        rows = windows(sequence)[:MEASURE_ROWS]
        return float(numpy.mean([loss(adapter, row[None]) for row in rows]))

    before = {"training": measure(None, tokens), "held_out": measure(None, unseen)}
    adapter = network.new_adapter(rng)
    adam = Adam(adapter)
    gradient_of = value_and_grad(loss)
    start = time.monotonic()
    for step in range(steps):
        starts = rng.integers(0, len(tokens) - ROW_TOKENS, ROWS)
        rows = numpy.stack([tokens[at : at + ROW_TOKENS + 1] for at in starts])
        value, gradient = gradient_of(adapter, rows)
        adam.update(adapter, gradient, learning_rate * 0.5 * (1 + numpy.cos(numpy.pi * step / steps)))
        # A bar a line: a log has no place where a line could be drawn anew.
        print(tqdm.format_meter(step + 1, steps, time.monotonic() - start, ncols=70, postfix=f"loss {value:.3f}"), flush=True)
    for name, sequence in (("training", tokens), ("held_out", unseen)):
        after = measure(adapter, sequence)
        fall = 100 * (1 - after / before[name])
        print(f"{name.replace('_', ' ')} lines: {before[name]:.3f} nats a token before, {after:.3f} after ({fall:.0f} % less)")
        scope = current_scope()
        scope.record_metric(f"loss.{name}.before", round(before[name], 4))
        scope.record_metric(f"loss.{name}.after", round(after, 4))
    return adapter


def windows(sequence):
    """Rows of at most ROW_TOKENS + 1 tokens, one after the other, which together hold the sequence once."""
    return [row for at in range(0, len(sequence), ROW_TOKENS) if len(row := sequence[at : at + ROW_TOKENS + 1]) > 1]


class Adam:
    """Adam on an adapter, in place."""

    def __init__(self, adapter):
        self.steps = 0
        self.moments = [{name: {f: [0.0, 0.0] for f in factors} for name, factors in layer.items()} for layer in adapter]

    def update(self, adapter, gradient, rate):
        self.steps += 1
        first, second = ADAM_DECAY
        for layer, slopes, moments in zip(adapter, gradient, self.moments):
            for name, factors in layer.items():
                for factor in factors:
                    slope, moment = slopes[name][factor], moments[name][factor]
                    moment[0] = first * moment[0] + (1 - first) * slope
                    moment[1] = second * moment[1] + (1 - second) * slope * slope
                    mean = moment[0] / (1 - first**self.steps)
                    spread = moment[1] / (1 - second**self.steps)
                    factors[factor] -= (rate * mean / (numpy.sqrt(spread) + 1e-8)).astype(numpy.float32)
