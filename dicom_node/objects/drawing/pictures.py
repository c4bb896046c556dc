"""The look of pictures that the node makes: grey values of a slice, marks of its directions, and texts."""

from functools import lru_cache
from unicodedata import combining, normalize

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

PixelBox = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Marks = tuple[str, str, str, str]  # at the left, right, top and bottom: R L A P H F

LETTERS = ("LR", "PA", "HF")  # towards and against each axis of LPS
OBLIQUE = np.sin(np.deg2rad(15))  # a direction further than this off an axis has a second letter


def windowed(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return grey values 0..255.

    The window leaves out the darkest hundredth and the brightest two-hundredth of a slice, so that vessels and
    artefacts do not darken everything else.
    """
    low, high = np.percentile(image, [1, 99.5])
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255


def letters(direction: NDArray[np.float64]) -> str:
    """Return a direction in LPS in the letters of Patient Orientation (PS3.3 C.7.6.1.1.1), main axis first: "PH"."""
    unit = direction / np.linalg.norm(direction)
    axes = [axis for axis in np.argsort(-np.abs(unit)) if abs(unit[axis]) > OBLIQUE]
    return "".join(LETTERS[axis][0 if unit[axis] > 0 else 1] for axis in axes)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """Return the text in ASCII, because Pillow's own font has no other characters.

    Letters lose their accents, and other characters become a question mark.
    """
    plain = "".join(c for c in normalize("NFKD", text) if not combining(c))
    return "".join(c if c.isascii() else "?" for c in plain)


def draw_marks(draw: ImageDraw.ImageDraw, box: PixelBox, marks: Marks, size: int) -> None:
    """Write at each edge of the picture in `box` the letters of the direction that it faces.

    The letters are white with a black rim, so that no image hides them.
    """
    left, top, right, bottom = box
    x, y, edge = (left + right) // 2, (top + bottom) // 2, 3
    places = ((left + edge, y, "lm"), (right - edge, y, "rm"), (x, top + edge, "mt"), (x, bottom - edge, "mb"))
    for (at_x, at_y, anchor), mark in zip(places, marks, strict=True):
        draw.text((at_x, at_y), mark, fill="white", font=font(size), anchor=anchor, stroke_width=2, stroke_fill="black")
