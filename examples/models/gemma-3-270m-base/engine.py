"""llama.cpp with Gemma 3 270M, and perhaps an adapter, on one thread."""

import json
import queue
import secrets
import sys
import threading
import urllib.request
from pathlib import Path

import xllamacpp

# Put there by build.run of cog.yaml, which checks its SHA-256.
WEIGHTS = Path(sys.prefix) / "share" / "weights" / "gemma-3-270m-q4_k_m.gguf"
# Prompt and answer together. The model itself can read 32,768; a prompt costs about 4 ms a token on one core.
CONTEXT_TOKENS = 2048
# Tokens of the prompt between two looks at whether the prediction was cancelled: about a quarter of a second.
PROMPT_BATCH_TOKENS = 64
# coglet cancels by an exception in the main thread, which a blocked wait does not see before it ends.
CANCEL_POLL_S = 0.05
TOKENIZE_TIMEOUT_S = 60


class Engine:
    def __init__(self, adapter=None):
        """`adapter` is the path of a LoRA in llama.cpp's GGUF form, which is added to the weights."""
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
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        # The engine also listens on a loopback port, of which only `tokenize` makes use: no page there, and a key that nobody else has.
        self.key = secrets.token_hex(32)
        params.ui = False
        params.api_keys = [self.key]
        params.n_threads_http = 1
        self.server = xllamacpp.Server(params)

    def tokenize(self, text):
        """The token ids of `text`, without the mark of a beginning."""
        request = urllib.request.Request(
            f"{self.server.listening_address}/tokenize",
            json.dumps({"content": text, "add_special": False}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        with urllib.request.urlopen(request, timeout=TOKENIZE_TIMEOUT_S) as answer:
            return json.load(answer)["tokens"]

    def stream(self, request):
        """The engine's pieces as they come. It blocks while it decodes, so it has a thread; leaving early stops it."""
        pieces = queue.SimpleQueue()
        left = threading.Event()

        def on_piece(piece):
            pieces.put(piece)
            return left.is_set()

        def decode():
            try:
                # Progress makes the engine call back while it still reads the prompt. A reused cache would change the last bits of the
                # arithmetic, and with them the text of a seed.
                options = {"stream": True, "return_progress": True, "cache_prompt": False}
                self.server.handle_completions({**request, **options}, on_piece)
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

    def complete(self, **request):
        """The whole continuation as one text."""
        return "".join(choice.get("text") or "" for part in self.stream(request) for choice in part["choices"])


def explain(error):
    if error.get("type") == "exceed_context_size_error":
        return f"prompt has {error['n_prompt_tokens']} tokens; prompt and answer together can have {CONTEXT_TOKENS}"
    return f"the engine refused the request: {error.get('message', error)}"
