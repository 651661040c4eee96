import hashlib

from cog import BaseRunner, Secret


class Runner(BaseRunner):
    """A model that is careless with its secret: it prints it, and fails with it."""

    def run(self, key: Secret, text: str = "", count: int = 1, fail: bool = False) -> str:
        value = key.get_secret_value()
        print(f"using {value} now")
        if fail:
            raise ValueError(f"{value} was refused")
        return hashlib.sha256(f"{value} {len(text)}".encode()).hexdigest()
