"""A model that tries to get out of its container. Each probe of probes.py is run in a process of its own and says what it got; what harms the instance itself
(bombs, floods, kills) is in harm.py and asked for one at a time. Nothing that works here is believed: the test looks from outside."""

import json
import os

import harm
import probes
from cog import BaseRunner, Input, Path


class Runner(BaseRunner):
    def setup(self) -> None:
        with open("/tmp/setup-marker", "w") as out:
            out.write("this instance's own")

    def run(
        self,
        probe: str = Input(description="`none`, `all` probes, names of some by commas, or one harm", default="none"),
        world: str = Input(description="JSON: what the test knows about the outside", default="{}"),
        file: Path | None = Input(description="read and forgotten", default=None),
    ) -> str:
        if file is not None:
            file.read_bytes()
        if probe == "none":
            return "still here"
        if probe == "all" or probe.split(",")[0] in probes.PROBES:
            names = list(probes.PROBES) if probe == "all" else probe.split(",")
            return json.dumps(probes.run(names, json.loads(world)))
        return harm.HARMS[probe](json.loads(world)) or f"{probe} by process {os.getpid()} came to nothing"
