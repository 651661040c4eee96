import tempfile

from cog import BaseModel, Path, Secret


class TrainingOutput(BaseModel):
    weights: Path


def train(key: Secret, fail: bool = False) -> TrainingOutput:
    value = key.get_secret_value()
    print(f"training with {value}")
    if fail:
        raise ValueError(f"{value} was refused")
    weights = Path(tempfile.mkdtemp()) / "weights.txt"
    weights.write_text("trained")
    return TrainingOutput(weights=weights)
