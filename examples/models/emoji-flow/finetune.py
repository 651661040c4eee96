"""Teaches emoji-flow one subject from about ten pictures: a LoRA on every layer, in numpy, on one core.

The latent knows only what emoji are made of, so it grows by the directions in which the new pictures differ from all of them. So that other words keep their
pictures, two thirds of each step hold the model to what it answered before.
"""

import secrets
import tempfile
import time
from pathlib import Path as FilePath
from typing import Optional

import numpy
from autograd import value_and_grad
from cog import BaseModel, Input, Path, current_scope
from tqdm import tqdm

from minilm import MiniLM
from pictures import read_pictures
from sampler import LAYERS, TEXT_SCALE, EmojiFlow, merge, velocity

RANK = 16
# Rows of a step: of the subject, and of the model's own pictures.
SUBJECT_ROWS = 48
OWN_ROWS = 112
OWN_PROMPTS = (
    "red apple, octopus, rocket, cat face, dog, pizza, ghost, smiling face with sunglasses, house with garden, automobile, tree, snail, robot, alien, "
    "grinning face, purple heart, balloon, fish, bird, flower, guitar, cup of coffee, umbrella, crown, monkey, horse, banana, cake, train, bicycle, "
    "airplane, boat, sun, moon, cloud, mountain, book, light bulb, crying face, angry face, sleeping face, monster, skull, baby, woman, man, "
    "princess, butterfly, turtle, whale, penguin, chicken, bread, cheese, hamburger, ice cream, beer, soccer ball, trophy, gift, bell, key, gem, fire"
).split(", ")
# Rows whose caption is left out, so that sampling can be guided. Of the subject only where so little noise is left that the picture can be recognised:
# else the answer to no caption would be the subject, and guidance would press its negative into every other picture.
DROPPED = 0.2
RECOGNISED_TIME = 0.5
# Of the logistic of a normal draw, the time: wider than in train/train.py, since leaks show first where all is still noise.
TIME_SPREAD = 1.5
# The noise that makes unseen wording work, as in train/train.py.
CAPTION_NOISE = 0.5
ADAM_DECAY = (0.9, 0.99)
GRADIENT_MAX = 1.0
SAMPLE_STEPS = 30
GUIDANCE = 2.5
MEASURE_SEEDS = range(8)


class TrainingOutput(BaseModel):
    weights: Path


def train(
    images: Path = Input(description="A zip with 4 to 50 pictures of one subject (PNG, JPEG, WebP, GIF, BMP), best about ten on white; at most 50 MB."),
    caption: str = Input(
        description="The word for the subject, to be used in prompts; best one that means nothing else, such as zorb.", min_length=1, max_length=100
    ),
    steps: int = Input(description="Steps of 160 pictures; each takes a fifth of a second.", default=500, ge=1, le=5000),
    learning_rate: float = Input(description="Largest step size; it falls to zero along a cosine.", default=0.003, ge=1e-5, le=0.02),
    seed: Optional[int] = Input(
        description="The same seed and inputs give the same weights on the same kind of CPU. Without one it is drawn, and told in the logs.",
        ge=0,
        le=2**31 - 1,
    ),
) -> TrainingOutput:
    caption = " ".join(caption.lower().split())
    if not caption:
        raise ValueError("caption is empty: give a word for the subject")
    flow, encoder = EmojiFlow(), MiniLM()
    pictures = read_pictures(images, flow.size)
    if seed is None:
        seed = secrets.randbelow(2**31)
        print(f"seed: {seed}")
    print(f"{len(pictures)} pictures of {caption!r}")
    tune = fit(flow, encoder, pictures, caption, steps, learning_rate, seed)
    path = FilePath(tempfile.mkdtemp()) / "fine-tune.npz"
    numpy.savez_compressed(path, **{name: value.astype(numpy.float16) for name, value in tune.items()})
    before, after = (distance(model, encoder, pictures, caption) for model in (flow, flow.fine_tuned(path)))
    print(f"pictures of {caption!r} are {before:.4f} from the nearest given one before, {after:.4f} after ({100 * (1 - after / before):.0f} % less)")
    current_scope().record_metric("distance.before", round(before, 4))
    current_scope().record_metric("distance.after", round(after, 4))
    return TrainingOutput(weights=Path(path))


def fit(flow, encoder, pictures, caption, steps, learning_rate, seed):
    """The changes that `steps` of Adam make: see `merge` in sampler.py."""
    rng = numpy.random.default_rng(seed)
    frozen, learnt = new_tune(flow, pictures, rng)
    texts = encoder.encode([caption, f"a {caption}", f"a picture of a {caption}", f"{caption} emoji"]) * numpy.float32(TEXT_SCALE)
    own_texts = encoder.encode(OWN_PROMPTS)
    own = flow.sample_all(own_texts, range(len(own_texts)), SAMPLE_STEPS, GUIDANCE)
    own_texts = own_texts * numpy.float32(TEXT_SCALE)
    grown = object.__new__(EmojiFlow)
    grown.weights = merge(flow.weights, {**frozen, **learnt})
    latents, own_latents = grown.encode(pictures), grown.encode(own)
    importance = grown.weights["spread"] / flow.weights["spread"].mean()

    def loss(tune, noisy, t, text, dropped, target):
        error = velocity(merge(flow.weights, {**frozen, **tune}), noisy, t, text, dropped) - target
        return (error * error * importance).mean()

    gradient_of = value_and_grad(loss)
    adam = Adam(learnt)
    start, recent = time.monotonic(), None
    rows = SUBJECT_ROWS + OWN_ROWS
    for step in range(steps):
        picked, own_picked = rng.integers(0, len(latents), SUBJECT_ROWS), rng.integers(0, len(own), OWN_ROWS)
        x = numpy.concatenate([latents[picked], own_latents[own_picked]])
        text = numpy.concatenate([texts[rng.integers(0, len(texts), SUBJECT_ROWS)], own_texts[own_picked]])
        text = text + (rng.standard_normal(text.shape) * rng.random((rows, 1)) * CAPTION_NOISE).astype(numpy.float32)
        t = (1 / (1 + numpy.exp(-TIME_SPREAD * rng.standard_normal(rows)))).astype(numpy.float32)
        noise = rng.standard_normal(x.shape).astype(numpy.float32)
        noisy = (1 - t)[:, None] * x + t[:, None] * noise
        is_own = numpy.arange(rows) >= SUBJECT_ROWS
        dropped = ((rng.random(rows) < DROPPED) & (is_own | (t < RECOGNISED_TIME))).astype(numpy.float32)[:, None]
        target = noise - x
        base = noisy[is_own, : flow.base_latent]
        target[is_own, : flow.base_latent] = velocity(flow.weights, base, t[is_own], text[is_own], dropped[is_own])
        value, gradient = gradient_of(learnt, noisy, t, text, dropped, target)
        adam.update(learnt, gradient, learning_rate * 0.5 * (1 + numpy.cos(numpy.pi * step / steps)))
        recent = value if recent is None else 0.9 * recent + 0.1 * value
        if (step + 1) % max(1, steps // 50) == 0 or step + 1 == steps:
            # A bar a line: a log has no place where a line could be drawn anew.
            print(tqdm.format_meter(step + 1, steps, time.monotonic() - start, ncols=70, postfix=f"loss {recent:.3f}"), flush=True)
    return {**frozen, **learnt}


def new_tune(flow, pictures, rng):
    """(what stays as it is, what is learnt) of a fine-tune that changes nothing yet."""
    flat = pictures.reshape(len(pictures), -1) * 2 - 1 - flow.weights["mean"]
    rest = flat - flat @ flow.weights["basis"].T @ flow.weights["basis"]
    _, singular, basis = numpy.linalg.svd(rest, full_matrices=False)
    spread = numpy.maximum(singular / numpy.sqrt(len(pictures)), 0.02 * flow.weights["spread"].max())
    frozen = {"basis": basis.astype(numpy.float16).astype(numpy.float32), "spread": spread.astype(numpy.float16).astype(numpy.float32)}
    width = flow.weights["in.w"].shape[1]
    learnt = {
        "in.rows": rng.normal(0, 0.02, (len(basis), width)).astype(numpy.float32),
        "out.columns": numpy.zeros((width, len(basis)), numpy.float32),
    }
    for layer in LAYERS:
        inputs, outputs = flow.weights[f"{layer}.w"].shape
        inputs, outputs = inputs + len(basis) * (layer == "in"), outputs + len(basis) * (layer == "out")
        learnt[f"{layer}.lora_a"] = (rng.normal(0, 1, (inputs, RANK)) / numpy.sqrt(inputs)).astype(numpy.float32)
        learnt[f"{layer}.lora_b"] = numpy.zeros((RANK, outputs), numpy.float32)
    return frozen, learnt


def distance(flow, encoder, pictures, caption):
    """How far pictures drawn for the caption are from the nearest of `pictures`: root mean square over pixels in 0..1, mean over some seeds."""
    text = encoder.encode([caption])[0]
    drawn = flow.sample_all(numpy.repeat(text[None], len(MEASURE_SEEDS), 0), MEASURE_SEEDS, SAMPLE_STEPS, GUIDANCE)
    return float(numpy.mean([numpy.sqrt(((pictures - picture) ** 2).mean((1, 2, 3))).min() for picture in drawn]))


class Adam:
    """Adam on arrays by name, in place; a gradient that is too long is cut."""

    def __init__(self, values):
        self.steps = 0
        self.first = {name: numpy.zeros_like(value) for name, value in values.items()}
        self.second = {name: numpy.zeros_like(value) for name, value in values.items()}

    def update(self, values, gradient, rate):
        self.steps += 1
        decay, slow_decay = ADAM_DECAY
        length = numpy.sqrt(sum(float((slope * slope).sum()) for slope in gradient.values()))
        for name, value in values.items():
            slope = gradient[name] * min(1.0, GRADIENT_MAX / (length + 1e-12))
            self.first[name] += (1 - decay) * (slope - self.first[name])
            self.second[name] += (1 - slow_decay) * (slope * slope - self.second[name])
            mean = self.first[name] / (1 - decay**self.steps)
            spread = self.second[name] / (1 - slow_decay**self.steps)
            value -= (rate * mean / (numpy.sqrt(spread) + 1e-8)).astype(numpy.float32)
