"""Sentence embeddings with all-MiniLM-L6-v2, and which of the texts lies nearest to each."""

import numpy as np
from cog import BaseModel, BaseRunner, Input

from minilm import MiniLM

TEXTS_MAX = 256
CHARACTERS_MAX = 20_000


class Output(BaseModel):
    """`embeddings` has one {index, embedding} for each text; `nearest` one {index, nearest, cosine}, from two texts on.

    Cog has no type for a list of lists, hence the objects.
    """

    model: str
    dimensions: int
    embeddings: list[dict]
    nearest: list[dict]
    tokens: int


class Runner(BaseRunner):
    def setup(self) -> None:
        self.model = MiniLM()
        self.model.encode(["warm"])

    def run(
        self,
        texts: list[str] = Input(
            description=f"Texts to embed, 1 to {TEXTS_MAX} of them. What is longer than 256 word pieces is cut there."
        ),
        decimals: int = Input(
            description="Digits kept after the point: fewer make a smaller answer.", default=6, ge=2, le=8
        ),
    ) -> Output:
        if not 1 <= len(texts) <= TEXTS_MAX:
            raise ValueError(f"texts must hold 1 to {TEXTS_MAX} texts, not {len(texts)}")
        for index, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"texts[{index}] is empty")
            if len(text) > CHARACTERS_MAX:
                raise ValueError(f"texts[{index}] has {len(text)} characters; {CHARACTERS_MAX} are the most")
        vectors = self.model.encode(texts)
        return Output(
            model="all-MiniLM-L6-v2",
            dimensions=vectors.shape[1],
            embeddings=[{"index": i, "embedding": rounded(vector, decimals)} for i, vector in enumerate(vectors)],
            nearest=nearest(vectors) if len(texts) > 1 else [],
            tokens=sum(self.model.count_tokens(text) for text in texts),
        )


def rounded(vector, decimals):
    return [round(value, decimals) for value in vector.tolist()]


def nearest(vectors):
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return [
        {"index": i, "nearest": int(j), "cosine": round(float(cosines[i, j]), 4)} for i, j in enumerate(cosines.argmax(1))
    ]
