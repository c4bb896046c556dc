"""A picture of a segmentation over its source images, made from the DICOM objects as a viewer makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy import ndimage

from dicom_node.objects.drawing.pictures import Marks, draw_marks, font, windowed
from inference.volumes.geometry import Affine, Mask
from inference.volumes.planes import functional
from inference.volumes.reading import read_volume
from inference.volumes.volume import Volume
from storage.blobs import file_blobs

PANEL = 420  # pixels, the longer side of one panel
OPACITY = 0.45
LEGEND_ROW = 20
BORDER = (70, 70, 70)

Picture = NDArray[np.float64]


@dataclass(frozen=True)
class ViewingPlane:
    """A plane across an upright array (see `upright`), as radiologists look at it.

    Radiologists see the patient from the feet, or from the front, so that the patient's right is on the left.
    """

    axis: int  # the axis along which one looks
    flip: bool  # True to have the head up
    marks: Marks


VIEWING_PLANES = (
    ViewingPlane(0, False, ("R", "L", "A", "P")),  # axial
    ViewingPlane(1, True, ("R", "L", "H", "F")),  # coronal
    ViewingPlane(2, True, ("A", "P", "H", "F")),  # sagittal
)


def write_overlay(path: Path, seg: Dataset, source_files: Sequence[Path]) -> Path:
    """Write a PNG with an axial, a coronal and a sagittal plane through the largest segment.

    The planes are plain in the upper row and coloured in the lower row, upright and in right proportions, with the
    names of the segments below. An oblique image is not interpolated: its own planes are shown, as the nearest ones to
    axial, coronal and sagittal.
    """
    volume = read_volume(file_blobs(source_files))
    turn = upright(volume.geometry.affine)
    array = turn.apply(volume.array)
    spacing = [volume.geometry.spacing[axis] for axis in turn.order]
    masks = {n: turn.apply(mask) for n, mask in masks_of(seg, volume).items()}
    numbers = sorted(masks, key=lambda n: -int(masks[n].sum()))  # small structures are painted last
    centre = _centre(masks[numbers[0]])
    described = {int(s.SegmentNumber): s for s in seg.SegmentSequence}
    colors = {n: _rgb(described[n]) for n in numbers}
    plain, painted = [], []
    for view in VIEWING_PLANES:
        grey = np.repeat(windowed(np.take(array, centre[view.axis], view.axis))[..., None], 3, axis=2)
        coloured = grey.copy()
        for n in numbers:
            _paint(coloured, np.take(masks[n], centre[view.axis], view.axis), colors[n])
        across = [s for axis, s in enumerate(spacing) if axis != view.axis]
        plain.append(_panel(grey, across, view))
        painted.append(_panel(coloured, across, view))
    names = [(str(described[n].SegmentLabel), colors[n]) for n in sorted(numbers)]
    _assemble([plain, painted], str(seg.SeriesDescription), names).save(path)
    return path


@dataclass(frozen=True)
class Turn:
    """A turn of an array [slice, row, column]: first its axes are put into `order`, then some are `flipped`."""

    order: tuple[int, int, int]
    flipped: tuple[int, ...]

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.flip(np.transpose(array, self.order), self.flipped)


def upright(affine: Affine) -> Turn:
    """Find the turn after which the axes point, nearly enough, to the head, the back and the left (LPS z, y, x)."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = max(permutations(range(3)), key=lambda axes: sum(abs(directions[2 - i, axes[i]]) for i in range(3)))
    flipped = tuple(i for i in range(3) if directions[2 - i, order[i]] < 0)
    return Turn((order[0], order[1], order[2]), flipped)


def masks_of(seg: Dataset, volume: Volume) -> Mapping[int, Mask]:
    """Return the mask of every segment on the grid of `volume`, placed by the source images the frames reference."""
    slices = {(f.sop_instance_uid, f.frame_number): k for k, f in enumerate(volume.frames)}
    masks: dict[int, Mask] = {}
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, image in enumerate(pixels):
        segment = functional(seg, frame, "SegmentIdentificationSequence")
        derivation = functional(seg, frame, "DerivationImageSequence")
        assert segment is not None
        assert derivation is not None
        number = int(segment.ReferencedSegmentNumber)
        source = derivation.SourceImageSequence[0]
        referenced = source.get("ReferencedFrameNumber")
        k = slices[str(source.ReferencedSOPInstanceUID), None if referenced is None else int(referenced)]
        masks.setdefault(number, np.zeros(volume.array.shape, bool))[k] = image > 0
    return masks


def _centre(mask: Mask) -> tuple[int, int, int]:
    """Find the plane in which the mask is largest, for each axis."""
    areas = [mask.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    i, j, k = (int(np.argmax(area)) for area in areas)
    return i, j, k


def _rgb(segment: Dataset) -> tuple[int, int, int]:
    lab = segment.get("RecommendedDisplayCIELabValue")
    if lab is None:
        return 255, 0, 0
    r, g, b = CIELabColor.from_dicom_value(tuple(int(v) for v in lab)).to_rgb()
    return int(r), int(g), int(b)


def _paint(image: Picture, mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    edge = mask & ~ndimage.binary_erosion(mask)
    image[mask] = (1 - OPACITY) * image[mask] + OPACITY * np.array(color)
    image[edge] = color


def _panel(image: Picture, spacing: Sequence[float], view: ViewingPlane) -> Image.Image:
    height, width = image.shape[0] * spacing[0], image.shape[1] * spacing[1]
    scale = PANEL / max(height, width)
    picture = Image.fromarray(np.flipud(image).astype(np.uint8) if view.flip else image.astype(np.uint8))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    panel = Image.new("RGB", (PANEL, PANEL))
    panel.paste(picture.resize(size, Image.Resampling.BICUBIC), ((PANEL - size[0]) // 2, (PANEL - size[1]) // 2))
    draw_marks(ImageDraw.Draw(panel), (0, 0, PANEL, PANEL), view.marks, 16)
    return panel


def _assemble(
    rows: Sequence[Sequence[Image.Image]], title: str, names: Sequence[tuple[str, tuple[int, int, int]]]
) -> Image.Image:
    columns = len(rows[0])
    legend = LEGEND_ROW * -(-len(names) // columns) + LEGEND_ROW
    page = Image.new("RGB", (columns * PANEL, len(rows) * PANEL + legend + LEGEND_ROW))
    draw = ImageDraw.Draw(page)
    draw.text((8, 2), title, fill="white", font=font(14))
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            page.paste(panel, (c * PANEL, LEGEND_ROW + r * PANEL))
    right, bottom = columns * PANEL, LEGEND_ROW + len(rows) * PANEL
    for c in range(1, columns):  # without the line, the marks of one panel seem to belong to the next
        draw.line((c * PANEL, LEGEND_ROW, c * PANEL, bottom), fill=BORDER)
    for r in range(len(rows) + 1):
        draw.line((0, LEGEND_ROW + r * PANEL, right, LEGEND_ROW + r * PANEL), fill=BORDER)
    for i, (name, color) in enumerate(names):
        x, y = (i % columns) * PANEL + 12, LEGEND_ROW + len(rows) * PANEL + LEGEND_ROW * (i // columns) + 8
        draw.rectangle((x, y, x + 12, y + 12), fill=color)
        draw.text((x + 20, y - 2), name, fill="white", font=font(14))
    return page
