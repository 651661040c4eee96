"""Trains on zorb.zip and shows what it did: the same prompts and seeds before and after, as one picture, and how far they are from the training set.

    <environment>/bin/python training/measure.py [steps]

The distance of a picture to the training set: root mean square over pixels (0 to 1) to the nearest picture there. Writes measured.png: the training set;
"zorb" by eight seeds before, and after; other prompts by seed 1 before, and after.
"""

import os
import resource
import sys
import time
from pathlib import Path

# As in cog.yaml.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy
from PIL import Image

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
from finetune import GUIDANCE, SAMPLE_STEPS, train
from minilm import MiniLM
from pictures import read_pictures
from sampler import EmojiFlow

OTHERS = ["a zorb", "a sad zorb", "red apple", "rocket", "a kitten", "pizza", "ghost", "tractor"]


def nearest(given, drawn):
    return numpy.array([numpy.sqrt(((given - picture) ** 2).mean((1, 2, 3))).min() for picture in drawn])


def main():
    images = FOLDER / "zorb.zip"
    wall, cpu = time.monotonic(), time.process_time()
    result = train(images=images, caption="zorb", steps=int(sys.argv[1]) if len(sys.argv) > 1 else 500, learning_rate=0.003, seed=1)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    base, encoder = EmojiFlow(), MiniLM()
    tuned = base.fine_tuned(result.weights)
    given = read_pictures(images, base.size)
    subject, others = encoder.encode(["zorb"] * 8), encoder.encode(OTHERS)
    drawn = {
        name: (model.sample_all(subject, range(8), SAMPLE_STEPS, GUIDANCE), model.sample_all(others, [1] * 8, SAMPLE_STEPS, GUIDANCE))
        for name, model in (("before", base), ("after", tuned))
    }
    far, near = nearest(given, drawn["before"][0]), nearest(given, drawn["after"][0])
    for seed in range(8):
        print(f"zorb, seed {seed}: {far[seed]:.3f} before, {near[seed]:.3f} after")
    print(f"distance to the training set: {far.mean():.3f} before, {near.mean():.3f} after ({100 * (1 - near.mean() / far.mean()):.0f} % less)")
    kept = numpy.sqrt(((drawn["before"][1][2:] - drawn["after"][1][2:]) ** 2).mean())
    print(f"other prompts changed by {kept:.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"training: {wall:.0f} s wall, {cpu:.0f} s of CPU, at most {peak} MB; weights {Path(result.weights).stat().st_size / 1e6:.1f} MB")
    rows = [given[:8], drawn["before"][0], drawn["after"][0], drawn["before"][1], drawn["after"][1]]
    sheet = numpy.concatenate([numpy.concatenate(list(row), 1) for row in rows])
    Image.fromarray((sheet * 255).round().astype(numpy.uint8)).save("measured.png")


if __name__ == "__main__":
    main()
