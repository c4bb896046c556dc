"""Lines of text in pictures, which are wrapped and never cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from PIL import Image, ImageDraw

from dicom_node.objects.drawing.pictures import drawable, font

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
MARGIN = 12  # pixels
SPACING = 1.25  # of the size of the text: the distance of lines
SWATCH = 0.75  # of the size of the text
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))  # drawn small, because Pillow's own font has none of them
RAISED_SIZE = 0.65


@dataclass(frozen=True)
class Line:
    """A line of text. `swatch` is the colour of the segment that it describes, if any."""

    text: str
    color: Color = WHITE
    swatch: Color | None = None


def line_height(size: int) -> int:
    return round(size * SPACING)


def wrapped(lines: Sequence[Line], width: int, size: int) -> list[Line]:
    """Break lines that are too long for `width` pixels between words, and words that are too long between letters.

    Only the first part of a line keeps the swatch; the others begin where its text does.
    """
    return [part for line in lines for part in _parts(line, width, size)]


def write(page: Image.Image, top: int, lines: Sequence[Line], size: int) -> None:
    """Write lines that fit one below the other from `top` on."""
    draw = ImageDraw.Draw(page)
    swatch, height = round(size * SWATCH), line_height(size)
    for n, line in enumerate(lines):
        y = top + height * n + height // 2
        if line.swatch is not None:
            draw.rectangle((MARGIN, y - swatch // 2, MARGIN + swatch, y + swatch // 2), fill=line.swatch)
        x = float(_start(line, size))
        for text, own, rise in _runs(line.text, size):
            draw.text((x, y - rise), text, fill=line.color, font=font(own), anchor="lm")
            x += font(own).getlength(text)


def _parts(line: Line, width: int, size: int) -> Iterator[Line]:
    room = width - MARGIN - _start(line, size)
    texts = [""]
    for word in line.text.split():
        longer = f"{texts[-1]} {word}".strip()
        if _length(longer, size) <= room:
            texts[-1] = longer
            continue
        pieces = list(_pieces(word, room, size))
        texts += pieces if texts[-1] else pieces[1:]
        if not texts[0]:
            texts[0] = pieces[0]
    for n, text in enumerate(texts):
        yield Line(text, line.color, line.swatch if n == 0 else None)


def _pieces(word: str, room: int, size: int) -> Iterator[str]:
    piece = ""
    for letter in word:
        if piece and _length(piece + letter, size) > room:
            yield piece
            piece = ""
        piece += letter
    yield piece


def _length(text: str, size: int) -> float:
    return sum(float(font(own).getlength(run)) for run, own, _ in _runs(text, size))


def _runs(text: str, size: int) -> Iterator[tuple[str, int, int]]:
    """Split a text into runs of one size: the text in ASCII, its size, and its rise above the line."""
    for raised, run in groupby(text, RAISED.__contains__):
        if raised:
            yield "".join(RAISED[character] for character in run), round(size * RAISED_SIZE), round(size * 0.3)
        else:
            yield drawable("".join(run)), size, 0


def _start(line: Line, size: int) -> int:
    return MARGIN if line.swatch is None else MARGIN + round(size * SWATCH) + MARGIN // 2
