"""Draws the subject of the example training: ten pictures of a zorb, a purple being with one eye and two horns, in ten moods. Writes zorb.zip."""

import io
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 128
# Drawn four times larger, for smooth edges.
SCALE = 4
BODY, DARK, HORN, EYE, IRIS = "#8e44ad", "#5b2c6f", "#f4d03f", "#fdfefe", "#1abc9c"
# (lean in degrees, size, look x and y, mouth, arms up, blinks)
MOODS = [
    (0, 1.00, 0, 0, "smile", False, False),
    (-8, 0.95, -1, 0, "smile", True, False),
    (8, 1.00, 1, 0, "open", False, False),
    (0, 0.90, 0, -1, "open", True, False),
    (-12, 1.05, -1, 1, "line", False, False),
    (12, 0.95, 1, 1, "smile", True, False),
    (4, 1.05, 0, 1, "sad", False, False),
    (-4, 0.90, 1, -1, "smile", False, True),
    (0, 1.05, -1, -1, "open", False, False),
    (-6, 1.00, 0, 0, "smile", True, True),
]


def draw(lean, size, look_x, look_y, mouth, arms_up, blinks):
    n = SIDE * SCALE
    image = Image.new("RGB", (n, n), "white")
    pen = ImageDraw.Draw(image)
    middle, unit = n / 2, n / 128 * size

    def box(x, y, rx, ry):
        return [middle + (x - rx) * unit, middle + (y - ry) * unit, middle + (x + rx) * unit, middle + (y + ry) * unit]

    def points(*pairs):
        return [(middle + x * unit, middle + y * unit) for x, y in pairs]

    width = round(3 * unit)
    for side in (-1, 1):
        pen.polygon(points((side * 12, -30), (side * 34, -30), (side * 32, -54)), fill=HORN)
        pen.ellipse(box(side * 15, 46, 12, 7), fill=DARK)
        hand = -20 if arms_up else 24
        pen.line(points((side * 34, 8), (side * 52, hand)), fill=DARK, width=round(8 * unit))
        pen.ellipse(box(side * 52, hand, 6, 6), fill=DARK)
    pen.ellipse(box(0, 4, 42, 42), fill=BODY)
    pen.ellipse(box(0, 24, 24, 18), fill="#bb8fce")
    if blinks:
        pen.arc(box(0, -8, 18, 12), 20, 160, fill=DARK, width=width)
    else:
        pen.ellipse(box(0, -8, 19, 19), fill=EYE)
        pen.ellipse(box(6 * look_x, -8 + 6 * look_y, 10, 10), fill=IRIS)
        pen.ellipse(box(6 * look_x, -8 + 6 * look_y, 5, 5), fill="black")
    if mouth == "smile":
        pen.chord(box(0, 18, 14, 12), 0, 180, fill=DARK)
    elif mouth == "open":
        pen.ellipse(box(0, 23, 9, 8), fill=DARK)
    elif mouth == "sad":
        pen.arc(box(0, 30, 12, 9), 180, 360, fill=DARK, width=width)
    else:
        pen.line(points((-10, 23), (10, 23)), fill=DARK, width=width)
    return image.rotate(lean, Image.BICUBIC, fillcolor="white").resize((SIDE, SIDE), Image.LANCZOS)


def main():
    with zipfile.ZipFile(Path(__file__).parent / "zorb.zip", "w") as archive:
        for number, mood in enumerate(MOODS, 1):
            buffer = io.BytesIO()
            draw(*mood).save(buffer, "PNG", optimize=True)
            # A fixed time, so that the file is the same each time it is made.
            archive.writestr(zipfile.ZipInfo(f"zorb-{number:02}.png", (2026, 1, 1, 0, 0, 0)), buffer.getvalue())


if __name__ == "__main__":
    main()
