"""Reads printed text in a picture with PP-OCRv4: one network finds the lines, one turns them upright, one reads them. onnxruntime, one thread."""

import warnings

import cv2
import numpy as np
from cog import BaseModel, BaseRunner, Input, Path
from PIL import Image, ImageOps, UnidentifiedImageError
from rapidocr_onnxruntime import RapidOCR

PIXELS_MAX = 25_000_000
SIDE_MIN = 8
# The reader was taught mostly Chinese, which has no spaces, and leaves most of them out. Between letters, a space is so many times likelier
# than it says: by trial.
SPACE_WEIGHT = 200


class Output(BaseModel):
    text: str
    # Each with its text, its confidence, and its box: left, top, right, bottom in pixels of the upright picture.
    lines: list[dict]


class Runner(BaseRunner):
    def setup(self) -> None:
        cv2.setNumThreads(1)
        self.reader = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
        network = self.reader.text_rec.session

        def with_spaces(lines):
            chances = network(lines)[0].copy()
            # The first of the signs means that there is none, the last is the space. Letters stay what they are.
            is_between = chances.argmax(-1) == 0
            chances[is_between, -1] = np.minimum(1, chances[is_between, -1] * SPACE_WEIGHT)
            return [chances]

        self.reader.text_rec.session = with_spaces

    def run(
        self,
        image: Path = Input(description="PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF of at most 25 million pixels."),
        confidence: float = Input(description="Lines of which the reader is less sure are left out.", default=0.7, ge=0, le=1),
    ) -> Output:
        found, _ = self.reader(read(image), text_score=confidence)
        lines = [line_of(corners, text, score) for corners, text, score in found or []]
        print(f"{len(lines)} lines")
        return Output(text="\n".join(line["text"] for line in lines), lines=lines)


def line_of(corners, text, score):
    xs, ys = zip(*corners)
    box = [int(min(xs)), int(min(ys)), int(max(xs)), int(max(ys))]
    return {"text": text.strip(), "confidence": round(float(score), 4), "box": box}


def read(path):
    """The picture as the reader wants it (blue, green, red), upright, on white. Says what is wrong with it otherwise."""
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
    return np.asarray(white.convert("RGB"))[:, :, ::-1].copy()
