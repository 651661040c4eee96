"""Gemma 3 270M, the base model: it continues a text, token by token. llama.cpp decodes on one thread."""

import queue
import secrets
import sys
import threading
from pathlib import Path
from typing import Optional

import xllamacpp
from cog import BaseRunner, ConcatenateIterator, Input, current_scope

# Put there by build.run of cog.yaml, which checks its SHA-256.
WEIGHTS = Path(sys.prefix) / "share" / "weights" / "gemma-3-270m-q4_k_m.gguf"
# Prompt and answer together. The model itself can read 32,768; a prompt costs about 4 ms a token on one core.
CONTEXT_TOKENS = 2048
# Tokens of the prompt between two looks at whether the prediction was cancelled: about a quarter of a second.
PROMPT_BATCH_TOKENS = 64
# coglet cancels by an exception in the main thread, which a blocked wait does not see before it ends.
CANCEL_POLL_S = 0.05
STOP_MAX = 4


class Runner(BaseRunner):
    def setup(self) -> None:
        if not WEIGHTS.is_file():
            raise RuntimeError(f"{WEIGHTS} is missing: the build commands of cog.yaml have not run in this environment")
        params = xllamacpp.CommonParams()
        params.model.path = str(WEIGHTS)
        params.n_ctx = CONTEXT_TOKENS
        params.n_batch = params.n_ubatch = PROMPT_BATCH_TOKENS
        params.n_parallel = 1
        # More threads than free cores make llama.cpp wait in a loop: 1.4 tokens/s instead of 70.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_ram_mib = 0
        params.verbosity = -1
        # The engine also listens on a loopback port. It is not used: no page there, and a key that nobody has.
        params.ui = False
        params.api_keys = [secrets.token_hex(32)]
        params.n_threads_http = 1
        self.engine = xllamacpp.Server(params)

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
            # A reused cache would change the last bits of the arithmetic, and with them the text of a seed.
            "cache_prompt": False,
        }
        usage = {}
        for piece in self._stream(request):
            usage = piece.get("usage", usage)
            for choice in piece["choices"]:
                if choice.get("text"):
                    yield choice["text"]
        scope = current_scope()
        scope.record_metric("input_token_count", usage.get("prompt_tokens", 0))
        scope.record_metric("output_token_count", usage.get("completion_tokens", 0))

    def _stream(self, request):
        """The engine's pieces as they come. It blocks while it decodes, so it has a thread; leaving early stops it."""
        pieces = queue.SimpleQueue()
        left = threading.Event()

        def on_piece(piece):
            pieces.put(piece)
            return left.is_set()

        def decode():
            try:
                # Progress makes the engine call back while it still reads the prompt.
                self.engine.handle_completions({**request, "stream": True, "return_progress": True}, on_piece)
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)

        thread = threading.Thread(target=decode, daemon=True)
        try:
            # Inside, before the loop: Python 3.11 lays an exception raised at a loop's backward jump to the instruction before
            # the loop. Were that outside, a cancel could skip `finally`, and the engine would go on.
            thread.start()
            while True:
                try:
                    piece = pieces.get(timeout=CANCEL_POLL_S)
                except queue.Empty:
                    continue
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                for part in piece if isinstance(piece, list) else [piece]:
                    if "error" in part:
                        raise ValueError(explain(part["error"]))
                    yield part
        finally:
            left.set()
            if thread.is_alive():
                thread.join()


def explain(error):
    if error.get("type") == "exceed_context_size_error":
        return f"prompt has {error['n_prompt_tokens']} tokens; prompt and answer together can have {CONTEXT_TOKENS}"
    return f"the engine refused the request: {error.get('message', error)}"
