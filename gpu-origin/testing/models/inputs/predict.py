from typing import Optional

from cog import BaseRunner, Path


class Runner(BaseRunner):
    def run(self, file: Optional[Path] = None, files: Optional[list[Path]] = None, note: Optional[str] = None) -> dict:
        given = [] if file is None else [file]
        given += [] if files is None else files
        return {"files": [{"suffix": path.suffix, "size": path.stat().st_size} for path in given], "note": note}
