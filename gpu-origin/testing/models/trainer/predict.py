from cog import BaseRunner, Input, Path


class Runner(BaseRunner):
    """Loads the weights of a fine-tune with each prediction, so that fine-tunes share its instances."""

    def run(
        self,
        text: str = "hello",
        replicate_weights: Path | None = Input(default=None, description="weights of a fine-tune"),
    ) -> str:
        source = "the base" if replicate_weights is None else replicate_weights.read_text().strip()
        return f"{text} from {source}"
