import asyncio
import time

from cog import BaseRunner, Input, concurrent, current_scope


class Runner(BaseRunner):
    """Like the model `tokens`, but many at once in one process."""

    # More slots than the 100 streams of the bench: coglet answers before a slot is free, and the spare ones hide that.
    @concurrent(max=110)
    async def run(
        self,
        count: int = Input(default=5, ge=0, le=100_000, description="Tokens"),
        delay_ms: float = Input(default=0.0, ge=0, description="Pause between tokens"),
        start_delay_ms: float = Input(default=0.0, ge=0, description="Silence before the first token"),
        stamp: bool = Input(default=False, description="Each token is the time of its making, milliseconds since 1970"),
    ) -> str:
        scope = current_scope()
        start = time.monotonic() + start_delay_ms / 1000
        text = ""
        for i in range(count):
            await asyncio.sleep(max(0.0, start + i * delay_ms / 1000 - time.monotonic()))
            token = f"{time.time() * 1000:.3f}" if stamp else f"token {i}\n"
            scope.record_metric("token", token, mode="replace")
            text += token
        return text
