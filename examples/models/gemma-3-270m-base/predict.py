"""Gemma 3 270M, the base model: it continues a text, token by token. llama.cpp decodes on one thread."""

import secrets
from typing import Optional

from cog import BaseRunner, ConcatenateIterator, Input, Path, current_scope

from adapters import Adapters

STOP_MAX = 4


class Runner(BaseRunner):
    def setup(self) -> None:
        self.adapters = Adapters()
        self.adapters.engine(None)

    def run(
        self,
        prompt: str = Input(
            description="Text to continue. It is a base model: begin the text that you want, do not ask for it.",
            min_length=1,
            max_length=16_000,
        ),
        max_tokens: int = Input(
            description="The most tokens to write; a token is about three quarters of a word.", default=128, ge=1, le=1024
        ),
        temperature: float = Input(
            description="0 takes the likeliest token each time, which soon repeats itself; higher is more varied.",
            default=0.8,
            ge=0,
            le=2,
        ),
        top_p: float = Input(
            description="Draw only from the likeliest tokens that together have this probability; 0 leaves one token.",
            default=0.95,
            ge=0,
            le=1,
        ),
        seed: Optional[int] = Input(
            description="The same seed and inputs give the same text. Without one it is drawn, and told in the logs.",
            ge=0,
            le=2**31 - 1,
        ),
        stop: list[str] = Input(
            description=f"Up to {STOP_MAX} texts, each of which ends the answer before it is written.", default=[]
        ),
        replicate_weights: Optional[Path] = Input(
            description="Weights that a training of this model made. Without them the base model answers."
        ),
    ) -> ConcatenateIterator[str]:
        if not prompt.strip():
            raise ValueError("prompt is empty: give the beginning of a text")
        if len(stop) > STOP_MAX or "" in stop:
            raise ValueError(f"stop must hold at most {STOP_MAX} texts, none of them empty")
        if seed is None:
            seed = secrets.randbelow(2**31)
            print(f"seed: {seed}")
        request = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
        }
        usage = {}
        for piece in self.adapters.engine(replicate_weights).stream(request):
            usage = piece.get("usage", usage)
            for choice in piece["choices"]:
                if choice.get("text"):
                    yield choice["text"]
        scope = current_scope()
        scope.record_metric("input_token_count", usage.get("prompt_tokens", 0))
        scope.record_metric("output_token_count", usage.get("completion_tokens", 0))
