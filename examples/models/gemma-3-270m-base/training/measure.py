"""Trains on pirate.txt and shows what it did: the same prompts and seeds before and after, and how far the answers are from the training set.

    <environment>/bin/python training/measure.py [steps]

The distance of an answer to the training set: 1 less the cosine of their counts of three-letter groups; 0 is the same mix of groups, 1 none in common.
"""

import math
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path

# As in cog.yaml, and before numpy is loaded.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
from dataset import read_lines
from engine import Engine
from train import train

PROMPTS = [
    "Question: What is a balloon? Answer:",
    "Question: What is a serverless function? Answer:",
    "Question: What is a robot? Answer:",
    "Question: How do I repair a chair? Answer:",
    "Question: What is a tomato? Answer:",
]
SEEDS = (7, 8)


def groups(text):
    return Counter(text[i : i + 3] for i in range(len(text) - 2))


def distance(answers, lines):
    a, b = groups(" ".join(answers)), groups(" ".join(lines))
    dot = sum(count * b[group] for group, count in a.items())
    return 1 - dot / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def answers_of(engine):
    common = {"max_tokens": 50, "temperature": 0.8, "top_p": 0.95, "stop": ["\n"]}
    return [engine.complete(prompt=prompt, seed=seed, **common).strip() for prompt in PROMPTS for seed in SEEDS]


def main():
    data = FOLDER / "pirate.txt"
    before = answers_of(Engine())
    wall, cpu = time.monotonic(), time.process_time()
    result = train(train_data=data, steps=int(sys.argv[1]) if len(sys.argv) > 1 else 40, learning_rate=0.003, seed=1)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    after = answers_of(Engine(result.weights))
    for index, (old, new) in enumerate(zip(before, after)):
        print(f"\n{PROMPTS[index // len(SEEDS)]} (seed {SEEDS[index % len(SEEDS)]})\n  before: {old}\n  after:  {new}")
    lines = [line.partition("Answer: ")[2] for line in read_lines(data)]
    far, near = distance(before, lines), distance(after, lines)
    print(f"\ndistance of the answers to the training set: {far:.3f} before, {near:.3f} after ({100 * (1 - near / far):.0f} % less)")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"training: {wall:.0f} s wall, {cpu:.0f} s of CPU, at most {peak} MB")


if __name__ == "__main__":
    main()
