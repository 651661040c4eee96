"""The pictures of a training set, out of a zip: each upright, on white, square, and as small as the model draws. Whatever is wrong is said in one sentence."""

import io
import warnings

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from archive import read_zip

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
PICTURES_MIN = 4
PICTURES_MAX = 50
BYTES_MAX = 50_000_000
PIXELS_MAX = 25_000_000
SIDE_MIN = 16


def read_pictures(path, size):
    """float32 (n, size, size, 3) in 0..1."""
    files = read_zip(path, SUFFIXES, PICTURES_MAX, BYTES_MAX)
    if len(files) < PICTURES_MIN:
        raise ValueError(f"the zip file holds {len(files)} pictures ({', '.join(sorted(SUFFIXES))}); at least {PICTURES_MIN} are needed, better ten")
    return numpy.stack([square(name, data, size) for name, data in files])


def square(name, data, size):
    shown = repr(name[-100:])
    try:
        with warnings.catch_warnings():
            # Our own limit is lower than that which Pillow warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > PIXELS_MAX or min(picture.size) < SIDE_MIN:
            raise ValueError(
                f"{shown} is {picture.width} x {picture.height} pixels; each side must have {SIDE_MIN}, and all at most {PIXELS_MAX // 1_000_000} million"
            )
        picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError(f"{shown} is not a picture that can be read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{shown} is too large: {error}") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{shown} is broken: {error}") from None
    side = max(picture.size)
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return numpy.asarray(ground.convert("RGB").resize((size, size), Image.LANCZOS), numpy.float32) / 255
