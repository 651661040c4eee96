"""Trains emoji-flow from scratch and writes ../weights/emoji-flow.npz.

    python train.py --font NotoColorEmoji.ttf --annotations en.xml

A picture is compressed to the coefficients of a PCA basis (its latent). A residual MLP learns the velocity that carries noise to such a latent
(rectified flow), given the MiniLM embedding of a caption; one time in ten the caption is left out, so that sampling can push away from the
unconditional answer (classifier-free guidance). The embedding gets noise in training, which is what makes unseen wording work.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data import SIZE, load

FOLDER = Path(__file__).parent.parent
sys.path.insert(0, str(FOLDER))
from minilm import MiniLM

# All but the last few of the 613 there can be: at 320 the missing ones show as noise on plain areas.
LATENT = 576
HIDDEN = 512
BLOCKS = 4
BATCH = 256
TEXT_SCALE = 8.0
RATE = 1e-3
WARMUP_STEPS = 100
SEED = 0


def initial(rng, text_width):
    """Parameters in the order and with the names that ../sampler.py reads."""

    def linear(inputs, outputs, scale=1.0):
        weights = rng.normal(0, scale / np.sqrt(inputs), (inputs, outputs))
        return {"w": jnp.asarray(weights, jnp.float32), "b": jnp.zeros(outputs)}

    return {
        "in": linear(LATENT, HIDDEN),
        "text": linear(text_width, HIDDEN),
        "time": linear(64, HIDDEN),
        "no_text": {"b": jnp.zeros(HIDDEN)},
        "out": linear(HIDDEN, LATENT, 0.01),
        **{
            f"block{i}.{name}": linear(*shape)
            for i in range(BLOCKS)
            for name, shape in (
                ("shift", (HIDDEN, 2 * HIDDEN, 0.1)),
                ("up", (HIDDEN, 2 * HIDDEN)),
                ("down", (2 * HIDDEN, HIDDEN, 0.1)),
            )
        },
    }


def velocity(p, x, t, text, drop):
    def apply(q, y):
        return y @ q["w"] + q["b"]

    phase = t[:, None] * 1000 * jnp.exp(-jnp.arange(32) * 0.29)
    h = apply(p["in"], x)
    clock = apply(p["time"], jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1))
    condition = jax.nn.silu(clock + jnp.where(drop[:, None], p["no_text"]["b"], apply(p["text"], text)))
    for i in range(BLOCKS):
        centered = h - h.mean(-1, keepdims=True)
        y = centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        scale, shift = jnp.split(apply(p[f"block{i}.shift"], condition), 2, -1)
        h = h + apply(p[f"block{i}.down"], jax.nn.gelu(apply(p[f"block{i}.up"], y * (1 + scale) + shift)))
    return apply(p["out"], h)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--font", required=True, help="NotoColorEmoji.ttf with bitmaps (Debian: fonts-noto-color-emoji)")
    parser.add_argument("--annotations", required=True, help="CLDR's annotations/en.xml (Debian: unicode-cldr-core)")
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--out", type=Path, default=FOLDER / "weights" / "emoji-flow.npz")
    options = parser.parse_args()

    pictures, texts = load(options.font, options.annotations)
    count = len(pictures)
    flat = (pictures / 127.5 - 1).reshape(count, -1).astype(np.float32)
    encoder = MiniLM()
    variants = max(len(t) for t in texts)
    # Every picture has the same number of captions, repeated where it has fewer.
    every = [captions[i % len(captions)] for captions in texts for i in range(variants)]
    embedded = encoder.encode(every).reshape(count, variants, -1) * TEXT_SCALE

    mean = flat.mean(0)
    _, singular, basis = np.linalg.svd(flat - mean, full_matrices=False)
    basis = basis[:LATENT]
    latents = (flat - mean) @ basis.T
    spread = np.maximum(latents.std(0), latents.std(0).max() * 0.02)
    kept = (singular[:LATENT] ** 2).sum() / (singular**2).sum()
    print(f"{count} pictures, {sum(map(len, texts))} captions, PCA keeps {kept:.4f} of the variance")

    params = average = initial(np.random.default_rng(SEED), embedded.shape[-1])
    weights = jnp.asarray(spread / spread.mean())
    x_all, text_all = jnp.asarray(latents / spread), jnp.asarray(embedded)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1.0, b2=0.99))
    state = optimizer.init(params)

    def loss(p, x, text, key):
        a, b, c = jax.random.split(key, 3)
        t = jax.nn.sigmoid(jax.random.normal(a, (x.shape[0],)))
        noise = jax.random.normal(b, x.shape)
        noisy = (1 - t)[:, None] * x + t[:, None] * noise
        drop = jax.random.uniform(c, t.shape) < 0.1
        return jnp.mean(((velocity(p, noisy, t, text, drop) - (noise - x)) ** 2) * weights)

    @jax.jit
    def step(p, average, state, key, rate):
        key, pick, which, jitter, amount, own = jax.random.split(key, 6)
        rows = jax.random.randint(pick, (BATCH,), 0, count)
        text = text_all[rows, jax.random.randint(which, (BATCH,), 0, variants)]
        text = text + jax.random.normal(jitter, text.shape) * jax.random.uniform(amount, (BATCH, 1)) * 0.5
        value, gradient = jax.value_and_grad(loss)(p, x_all[rows], text, own)
        update, state = optimizer.update(gradient, state, p)
        p = jax.tree.map(lambda a, b: a + rate * b, p, update)
        return p, jax.tree.map(lambda a, b: a * 0.998 + b * 0.002, average, p), state, key, value

    key, start, recent = jax.random.PRNGKey(SEED), time.time(), []
    for done in range(options.steps):
        cosine = 0.5 * (1 + np.cos(np.pi * done / options.steps))
        rate = RATE * min(1, (done + 1) / WARMUP_STEPS) * max(0.02, cosine)
        params, average, state, key, value = step(params, average, state, key, rate)
        if (done + 1) % 200 == 0:
            recent.append(float(value))
            print(f"step {done + 1}, loss {np.mean(recent[-5:]):.4f}, {time.time() - start:.0f} s", flush=True)

    out = options.out
    out.parent.mkdir(exist_ok=True)
    # The basis is most of the file, and eight bits a number cannot be told from more.
    basis_scale = np.abs(basis).max(1, keepdims=True) / 127
    np.savez_compressed(
        out,
        mean=mean.astype(np.float16),
        basis=(basis / basis_scale).round().astype(np.int8),
        basis_scale=basis_scale.astype(np.float32),
        spread=spread.astype(np.float32),
        size=np.int32(SIZE),
        **{f"{name}.{part}": np.asarray(value, np.float16) for name, q in average.items() for part, value in q.items()},
    )
    print(f"{options.steps * BATCH // count} epochs, {out.stat().st_size / 1e6:.1f} MB in {out.name}")


if __name__ == "__main__":
    main()
