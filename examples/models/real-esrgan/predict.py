"""Enlarges a picture two, three or four times with Real-ESRGAN, and draws the detail that the small picture only hints at."""

import tempfile
import warnings
from pathlib import Path as FilePath

import numpy as np
from cog import BaseRunner, Input, Path
from PIL import Image, ImageOps, UnidentifiedImageError

from networks import Network

# Pixels of the input that a network does in about a minute on one core.
PIXELS_MAX = {"x4plus": 160_000, "animevideov3": 1_000_000}
SIDE_MIN = 8
# Input sides longer than this are refused before anything is decoded.
SIDE_MAX = 8192
# Tiles that take one to three seconds, which is how long a cancel may have to wait.
TILES = {"x4plus": 64, "animevideov3": 192}


class Runner(BaseRunner):
    def setup(self) -> None:
        video = {scale: Network(f"realesr-animevideov3-x{scale}", scale, TILES["animevideov3"]) for scale in (2, 3, 4)}
        # x4plus has one size. A smaller one is made out of it.
        photo = Network("realesrgan-x4plus", 4, TILES["x4plus"])
        self.networks = {"animevideov3": video, "x4plus": {2: photo, 3: photo, 4: photo}}

    def run(
        self,
        image: Path = Input(
            description="PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF: at most 160,000 pixels (such as 400 x 400) for x4plus, "
            "1,000,000 for animevideov3."
        ),
        model: str = Input(
            description="x4plus: for photographs, slow, invents fine detail. animevideov3: for drawings, twenty times faster, smooth.",
            choices=["x4plus", "animevideov3"],
            default="x4plus",
        ),
        scale: int = Input(description="How many times wider and higher the result is.", choices=[2, 3, 4], default=4),
    ) -> Path:
        picture = read(image, model)
        network = self.networks[model][scale]
        size = (picture.width * scale, picture.height * scale)
        print(f"{picture.width} x {picture.height} to {size[0]} x {size[1]}")
        pixels = network.enlarge(np.asarray(picture.convert("RGB")), lambda done, total: print(f"tile {done} of {total}"))
        result = Image.fromarray(pixels)
        if result.size != size:
            result = result.resize(size, Image.LANCZOS)
        if picture.mode == "RGBA":
            # The networks know no transparency, so it is enlarged by the classic way.
            result.putalpha(picture.getchannel("A").resize(size, Image.BICUBIC))
        path = FilePath(tempfile.mkdtemp()) / "upscaled.png"
        result.save(path)
        return Path(path)


def read(path, model):
    """The picture as RGB or RGBA, upright. Says what is wrong with it otherwise."""
    try:
        with warnings.catch_warnings():
            # Our own limits are lower than those that Pillow warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        check_size(opened.size, model)
        opened.load()
    except UnidentifiedImageError:
        raise ValueError("image is not a picture that can be read: give PNG, JPEG, WebP, GIF, BMP or TIFF") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"image is too large: {error}") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"image is broken: {error}") from None
    upright = ImageOps.exif_transpose(opened)
    has_alpha = "A" in upright.getbands() or "transparency" in upright.info
    return upright.convert("RGBA" if has_alpha else "RGB")


def check_size(size, model):
    width, height = size
    limit = PIXELS_MAX[model]
    if min(size) < SIDE_MIN or max(size) > SIDE_MAX:
        raise ValueError(f"image is {width} x {height}; each side must have {SIDE_MIN} to {SIDE_MAX} pixels")
    if width * height > limit:
        other = ", or use animevideov3" if model == "x4plus" and width * height <= PIXELS_MAX["animevideov3"] else ""
        side = int((limit * width / height) ** 0.5)
        raise ValueError(
            f"image is {width} x {height} = {width * height:,} pixels; {model} takes at most {limit:,}: "
            f"scale it down to about {side} x {side * height // width}{other}"
        )
