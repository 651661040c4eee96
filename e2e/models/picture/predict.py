import struct
import tempfile
import time
import zlib

from cog import BaseRunner, Input, Path


class Runner(BaseRunner):
    """Writes a PNG of one colour, with the inputs that clients of image models send."""

    def run(
        self,
        prompt: str = Input(default="", description="Its length and the seed make the colour"),
        image: Path | None = Input(default=None, description="Another picture: its size in bytes changes the colour"),
        size: str = Input(default="8x8", regex=r"^\d{1,3}x\d{1,3}$"),
        seed: int = Input(default=0, ge=0),
        pause_s: float = Input(default=0.0, ge=0),
        fail: bool = Input(default=False),
    ) -> Path:
        time.sleep(pause_s)
        if fail:
            raise ValueError("no picture of that")
        width, height = map(int, size.split("x"))
        given = 0 if image is None else image.stat().st_size
        path = Path(tempfile.mkdtemp()) / "picture.png"
        path.write_bytes(png(width, height, bytes([seed % 256, len(prompt) % 256, given % 256])))
        return path


def png(width: int, height: int, colour: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + colour * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
