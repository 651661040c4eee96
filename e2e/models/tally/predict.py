"""Writes down each run outside of everything: what ran twice or never shows in the file."""

from cog import BaseRunner, Input


class Runner(BaseRunner):
    async def run(self, text: str = Input(description="The line"), path: str = Input(description="The file")) -> str:
        with open(path, "a") as file:
            file.write(f"{text}\n")
        return text
