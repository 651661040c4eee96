import time

from cog import BaseRunner, ConcatenateIterator, Input


class Runner(BaseRunner):
    """Tokens at a steady pace, the same ones every time; with `stamp` each token is its own time instead, so no two runs agree."""

    def run(
        self,
        count: int = Input(default=5, ge=0, le=100_000, description="Tokens"),
        delay_ms: float = Input(default=0.0, ge=0, description="Pause between tokens"),
        start_delay_ms: float = Input(default=0.0, ge=0, description="Silence before the first token"),
        stamp: bool = Input(default=False, description="Each token is the time of its making, milliseconds since 1970"),
        text: str = Input(default="", description="Each of its characters is a token, in place of the numbered ones"),
        fail_at: int = Input(default=-1, description="Fail before this token"),
    ) -> ConcatenateIterator[str]:
        print("begun")
        start = time.monotonic() + start_delay_ms / 1000
        for i in range(len(text) or count):
            # By the clock, not by adding pauses: the pace does not drift when a pause takes longer.
            time.sleep(max(0.0, start + i * delay_ms / 1000 - time.monotonic()))
            if i == fail_at:
                raise RuntimeError("broke in the middle")
            yield f"{time.time() * 1000:.3f}" if stamp else text[i] if text else f"token {i}\n"
        print("ended")
