"""The training set: colour bitmaps of the Noto Color Emoji font, captioned by Unicode's English names and keywords (CLDR).

Faces, animals, plants, food, weather, places, vehicles, and a choice of objects: what a person would ask a tiny picture model for.
Each picture has several captions, so that a prompt need not be an official name.
"""

import io
import unicodedata
import xml.etree.ElementTree as ElementTree

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image

SIZE = 64
RANGES = [
    (0x1F300, 0x1F30F),
    (0x1F311, 0x1F31F),
    (0x1F324, 0x1F335),
    (0x1F337, 0x1F37F),
    (0x1F380, 0x1F393),
    (0x1F3A8, 0x1F3BF),
    (0x1F3E0, 0x1F3F0),
    (0x1F400, 0x1F43F),
    (0x1F451, 0x1F462),
    (0x1F47B, 0x1F480),
    (0x1F48B, 0x1F49F),
    (0x1F4A0, 0x1F4A9),
    (0x1F4B0, 0x1F4B0),
    (0x1F4BB, 0x1F4BB),
    (0x1F4D5, 0x1F4DA),
    (0x1F511, 0x1F514),
    (0x1F525, 0x1F52E),
    (0x1F5FB, 0x1F5FF),
    (0x1F600, 0x1F644),
    (0x1F680, 0x1F6A4),
    (0x1F6F4, 0x1F6FC),
    (0x1F910, 0x1F917),
    (0x1F920, 0x1F92F),
    (0x1F940, 0x1F96F),
    (0x1F970, 0x1F97A),
    (0x1F980, 0x1F9CB),
    (0x2600, 0x2603),
    (0x2614, 0x2615),
    (0x26C4, 0x26C5),
    (0x2708, 0x2708),
    (0x2744, 0x2744),
    (0x2764, 0x2764),
    (0x2B50, 0x2B50),
]


# Keywords say less than names ("fruit" is many pictures), so a picture has few of them.
KEYWORDS_MAX = 3


def read_annotations(path):
    """({character: short name}, {character: [keywords]}) of a CLDR annotations file."""
    names, keywords = {}, {}
    for node in ElementTree.parse(path).getroot().iter("annotation"):
        text = (node.text or "").lower()
        if node.get("type") == "tts":
            names[node.get("cp")] = text
        else:
            keywords[node.get("cp")] = [word.strip() for word in text.split("|")]
    return names, keywords


def captions(character, names, keywords):
    """Several ways to ask for the picture of `character`; the short name in most of them."""
    official = unicodedata.name(character).lower().replace("-", " ")
    name = names.get(character, official)
    words = [word for word in keywords.get(character, []) if word != name]
    every = [name, f"a {name}", f"a picture of a {name}", f"{name} emoji", official]
    if words:
        every.append(f"{name}, {', '.join(words[:5])}")
    return list(dict.fromkeys(every + words[:KEYWORDS_MAX]))


def load(font_path, annotations_path):
    """(pictures uint8 (n, SIZE, SIZE, 3) on white, captions per picture)."""
    names, keywords = read_annotations(annotations_path)
    font = TTFont(font_path)
    glyph_of = font.getBestCmap()
    bitmaps = font["CBDT"].strikeData[0]
    pictures, texts = [], []
    for first, last in RANGES:
        for code in range(first, last + 1):
            glyph = glyph_of.get(code)
            if not unicodedata.name(chr(code), "") or glyph not in bitmaps:
                continue
            image = Image.open(io.BytesIO(bytes(bitmaps[glyph].imageData))).convert("RGBA")
            side = max(image.size)
            square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
            square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
            pictures.append(np.asarray(square.convert("RGB").resize((SIZE, SIZE), Image.LANCZOS)))
            texts.append(captions(chr(code), names, keywords))
    return np.stack(pictures), texts
