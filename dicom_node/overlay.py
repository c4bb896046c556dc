"""A picture of a segmentation over its source images, made from the DICOM objects as a viewer would."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from scipy import ndimage

from inference.findings import Mask
from inference.planes import functional
from inference.volume import Volume, read_volume

PANEL = 420  # pixels, the longer side of one panel
OPACITY = 0.45
LEGEND_ROW = 20

Picture = NDArray[np.float64]


def write_overlay(path: Path, seg: Dataset, source_files: Sequence[Path]) -> Path:
    """Writes a PNG: three orthogonal planes through the largest segment, plain above, coloured below, with names.

    Planes are those of the acquisition and the two across it, in right proportions.
    """
    volume = read_volume(source_files)
    masks = masks_of(seg, volume)
    numbers = sorted(masks, key=lambda n: -int(masks[n].sum()))  # small structures are painted last
    centre = _centre(masks[numbers[0]])
    described = {int(s.SegmentNumber): s for s in seg.SegmentSequence}
    colors = {n: _rgb(described[n]) for n in numbers}
    plain, painted = [], []
    for axis in range(3):
        image = _window(np.take(volume.array, centre[axis], axis))
        coloured = np.repeat(image[..., None], 3, axis=2)
        for n in numbers:
            _paint(coloured, np.take(masks[n], centre[axis], axis), colors[n])
        spacing = [s for a, s in enumerate(volume.geometry.spacing) if a != axis]
        flip = axis != 0 and volume.geometry.affine[2, 0] > 0  # across axial slices: head up
        plain.append(_panel(np.repeat(image[..., None], 3, axis=2), spacing, flip))
        painted.append(_panel(coloured, spacing, flip))
    names = [(str(described[n].SegmentLabel), colors[n]) for n in sorted(numbers)]
    _assemble([plain, painted], str(seg.SeriesDescription), names).save(path)
    return path


def masks_of(seg: Dataset, volume: Volume) -> Mapping[int, Mask]:
    """The mask of every segment on the grid of `volume`, placed by the source images that the frames reference."""
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
    """Per axis, the plane in which the mask is largest."""
    areas = [mask.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    i, j, k = (int(np.argmax(area)) for area in areas)
    return i, j, k


def _rgb(segment: Dataset) -> tuple[int, int, int]:
    lab = segment.get("RecommendedDisplayCIELabValue")
    if lab is None:
        return 255, 0, 0
    r, g, b = CIELabColor.from_dicom_value(tuple(int(v) for v in lab)).to_rgb()
    return int(r), int(g), int(b)


def _window(image: NDArray[np.float32]) -> Picture:
    low, high = np.percentile(image, [1, 99.5])
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255


def _paint(image: Picture, mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    edge = mask & ~ndimage.binary_erosion(mask)
    image[mask] = (1 - OPACITY) * image[mask] + OPACITY * np.array(color)
    image[edge] = color


def _panel(image: Picture, spacing: Sequence[float], flip: bool) -> Image.Image:
    height, width = image.shape[0] * spacing[0], image.shape[1] * spacing[1]
    scale = PANEL / max(height, width)
    picture = Image.fromarray(np.flipud(image).astype(np.uint8) if flip else image.astype(np.uint8))
    return picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)


def _assemble(
    rows: Sequence[Sequence[Image.Image]], title: str, names: Sequence[tuple[str, tuple[int, int, int]]]
) -> Image.Image:
    columns = len(rows[0])
    legend = LEGEND_ROW * -(-len(names) // columns) + LEGEND_ROW
    page = Image.new("RGB", (columns * PANEL, len(rows) * PANEL + legend + LEGEND_ROW))
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(14)
    draw.text((8, 2), title, fill="white", font=font)
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            corner = (c * PANEL + (PANEL - panel.width) // 2, LEGEND_ROW + r * PANEL + (PANEL - panel.height) // 2)
            page.paste(panel, corner)
    for i, (name, color) in enumerate(names):
        x, y = (i % columns) * PANEL + 12, LEGEND_ROW + len(rows) * PANEL + LEGEND_ROW * (i // columns) + 8
        draw.rectangle((x, y, x + 12, y + 12), fill=color)
        draw.text((x + 20, y - 2), name, fill="white", font=font)
    return page
