from cog import BaseRunner
from opentelemetry import trace


class Runner(BaseRunner):
    def run(self, text: str) -> str:
        with trace.get_tracer("traced").start_as_current_span("span-of-the-model"):
            return text.upper()
