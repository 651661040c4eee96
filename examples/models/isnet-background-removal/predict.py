"""Cuts the subject out of a picture: ISNet tells for every pixel how much of it is foreground. onnxruntime, one thread."""

import sys
import tempfile
import warnings
from pathlib import Path as FilePath

import numpy as np
import onnxruntime
from cog import BaseRunner, Input, Path
from PIL import Image, ImageColor, ImageFilter, ImageOps, UnidentifiedImageError

# Put there by build.run of cog.yaml, which checks its SHA-256.
WEIGHTS = FilePath(sys.prefix) / "share" / "weights" / "isnet.onnx"
# Side of the square that the network sees, whatever the picture's size.
SIDE = 1024
PIXELS_MAX = 25_000_000
SIDE_MIN = 16
# Of the longer side: a background that is blurred, yet can be told.
BLUR = 0.015


class Runner(BaseRunner):
    def setup(self) -> None:
        if not WEIGHTS.is_file():
            raise RuntimeError(f"{WEIGHTS} is missing: the build commands of cog.yaml have not run in this environment")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Memory goes back after each picture: it would keep 1.5 GB.
        options.enable_cpu_mem_arena = False
        self.session = onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])

    def run(
        self,
        image: Path = Input(description="PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF of at most 25 million pixels."),
        background: str = Input(
            description="What becomes of the background; mask gives the mask itself, white where the subject is.",
            choices=["transparent", "color", "blur", "mask"],
            default="transparent",
        ),
        color: str = Input(description="The new background for color: a name such as white, or #rrggbb.", default="white", max_length=50),
    ) -> Path:
        try:
            ground = ImageColor.getrgb(color)[:3]
        except ValueError:
            raise ValueError(f"color {color!r} is none that is known: give a name such as white, or #rrggbb") from None
        picture = read(image)
        mask = self.mask_of(picture)
        if background == "mask":
            result = mask
        elif background == "transparent":
            result = picture.copy()
            result.putalpha(mask)
        else:
            radius = BLUR * max(picture.size)
            behind = picture.filter(ImageFilter.GaussianBlur(radius)) if background == "blur" else Image.new("RGB", picture.size, ground)
            result = Image.composite(picture, behind, mask)
        path = FilePath(tempfile.mkdtemp()) / f"{background}.png"
        result.save(path)
        return Path(path)

    def mask_of(self, picture):
        """How much of each pixel is foreground, as a grey picture of the same size."""
        x = np.asarray(picture.resize((SIDE, SIDE), Image.BILINEAR), np.float32)
        x = ((x - 128) / 256).transpose(2, 0, 1)[None]
        # The first output alone is the mask; the others are coarser ones that training used.
        mask = self.session.run([self.session.get_outputs()[0].name], {self.session.get_inputs()[0].name: x})[0][0, 0]
        return Image.fromarray((np.clip(mask, 0, 1) * 255).round().astype(np.uint8)).resize(picture.size, Image.BILINEAR)


def read(path):
    """The picture as RGB, upright, on white. Says what is wrong with it otherwise."""
    try:
        with warnings.catch_warnings():
            # Our own limit is lower than that which Pillow warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        if opened.width * opened.height > PIXELS_MAX or min(opened.size) < SIDE_MIN:
            raise ValueError(
                f"image is {opened.width} x {opened.height}; each side must have {SIDE_MIN} pixels, and all at most {PIXELS_MAX // 1_000_000} million"
            )
        picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError("image is not a picture that can be read: give PNG, JPEG, WebP, GIF, BMP or TIFF") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"image is too large: {error}") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"image is broken: {error}") from None
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")
