import asyncio
import time

from cog import BaseRunner, concurrent, current_scope


class Runner(BaseRunner):
    """Asynchronous, several at once: tokens go live by a metric, since coglet holds back the output of async generators."""

    @concurrent(max=4)
    async def run(self, name: str = "a", count: int = 5, pause_s: float = 0.05, block_s: float = 0.0) -> str:
        scope = current_scope()
        scope.record_metric("words", 0)
        text = ""
        for i in range(count):
            token = f"{name}{i} "
            scope.record_metric("token", token, mode="replace")
            text += token
            # A blocking call in a coroutine: neither it nor its neighbours can be interrupted.
            time.sleep(block_s)
            await asyncio.sleep(pause_s)
        scope.record_metric("words", count)
        return text
