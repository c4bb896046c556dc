"""Images into which several slices are tiled: Siemens MOSAIC and UIH VFRAME.

Tiles go along rows, from the upper left. Only private attributes state the number of tiles and their positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, isqrt

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.values import convert_SQ

from inference.headers.attributes import values, vector
from inference.headers.csa import read_csa
from inference.headers.private import PrivateElements
from storage.errors import InputRefused

CSA = (0x0029, "SIEMENS CSA HEADER", 0x10)
UIH_NUMBER = (0x0065, "Image Private Header", 0x50)
UIH_SLICES = (0x0065, "Image Private Header", 0x51)
MOST = 1024  # tiles, 32 x 32: far more than any scanner makes


class TileFormat(StrEnum):
    """Formats of tiled images, named as ImageType names them."""

    MOSAIC = "MOSAIC"  # Siemens
    VFRAME = "VFRAME"  # UIH


@dataclass(frozen=True, eq=False)
class Tiling:
    """The tiles of an image, and where each lies.

    `rows` and `columns` are those of one tile. For each tile, `corners` has the row and column of its first pixel in
    the image, counted from 0, and `positions` the centre of that pixel in LPS mm.
    """

    rows: int
    columns: int
    corners: tuple[tuple[int, int], ...]
    positions: tuple[NDArray[np.float64], ...]


def tiled_as(ds: Dataset) -> TileFormat | None:
    """Return the format in which ImageType says that the image is tiled; None if it is not tiled."""
    image_type = {str(v).upper() for v in values(ds.get("ImageType"))}
    return next((tile_format for tile_format in TileFormat if tile_format in image_type), None)


def tiling_of(ds: Dataset, tile_format: TileFormat, name: str) -> Tiling:
    """Read the tiling of an image that is tiled as `tile_format` says.

    Raises InputRefused, which calls the instance `name`, if the private attributes are missing or wrong.
    """
    return _mosaic(ds, name) if tile_format is TileFormat.MOSAIC else _vframe(ds, name)


def _mosaic(ds: Dataset, name: str) -> Tiling:
    """Read a mosaic: as many tiles along its rows as down its columns, the last of which may be empty.

    ImagePositionPatient is that of an image of the whole mosaic's size about the centre of the first slice. The other
    slices follow along SliceNormalVector, which points against the normal of the image if they go the other way.
    """
    where = f"{name}, a mosaic"
    block = PrivateElements(ds).value(*CSA)
    if not isinstance(block, bytes):
        raise InputRefused(
            f"{where}: where its slices lie stands in the private attribute SIEMENS CSA HEADER, which is missing; "
            "send it with its private attributes"
        )
    try:
        csa = read_csa(block, ("NumberOfImagesInMosaic", "SliceNormalVector"))
        number = int(csa["NumberOfImagesInMosaic"][0])
        normal = np.array([float(v) for v in csa["SliceNormalVector"]])
    except (IndexError, KeyError, ValueError):
        raise InputRefused(
            f"{where}: its CSA header has no readable NumberOfImagesInMosaic and SliceNormalVector"
        ) from None
    across = isqrt(_checked(number, where) - 1) + 1
    rows, columns = _divided(ds, across, across, where)
    directions = vector(ds, "ImageOrientationPatient", 6, where)
    spacing = vector(ds, "PixelSpacing", 2, where)
    (step,) = vector(ds, "SpacingBetweenSlices", 1, where)
    if normal.shape != (3,) or not abs(abs(float(np.cross(directions[:3], directions[3:]) @ normal)) - 1) < 1e-3:
        raise InputRefused(f"{where}: its SliceNormalVector is not perpendicular to the image")
    margin = np.array([ds.Rows - rows, ds.Columns - columns]) / 2 * spacing
    first = vector(ds, "ImagePositionPatient", 3, where) + margin[0] * directions[3:] + margin[1] * directions[:3]
    return _tiling(rows, columns, across, [first + k * step * normal for k in range(number)])


def _vframe(ds: Dataset, name: str) -> Tiling:
    """Read a VFRAME: a private sequence has an item with ImagePositionPatient for each slice.

    No row of tiles is empty.
    """
    where = f"{name}, tiled as VFRAME"
    private = PrivateElements(ds)
    items = private.value(*UIH_SLICES)
    if isinstance(items, bytes):  # undecoded, because the file has implicit VR
        items = _sequence(items)
    if not items:
        raise InputRefused(
            f"{where}: where its slices lie stands in a private sequence of Image Private Header, which is missing; "
            "send it with its private attributes"
        )
    number = _checked(len(items), where)
    declared = private.numbers(*UIH_NUMBER, "DS")
    if declared and declared[0] != number:
        raise InputRefused(f"{where}: says it has {declared[0]:g} slices but places {number}")
    across = isqrt(number - 1) + 1
    rows, columns = _divided(ds, ceil(number / across), across, where)
    positions = [vector(item, "ImagePositionPatient", 3, f"{where}, slice {k}") for k, item in enumerate(items, 1)]
    return _tiling(rows, columns, across, positions)


def _tiling(rows: int, columns: int, across: int, positions: Sequence[NDArray[np.float64]]) -> Tiling:
    corners = tuple((k // across * rows, k % across * columns) for k in range(len(positions)))
    return Tiling(rows, columns, corners, tuple(positions))


def _sequence(value: bytes) -> Sequence[Dataset]:
    try:
        return list(convert_SQ(value, True, True))
    except Exception:  # pydicom raises errors of many kinds for a malformed value
        return []


def _checked(number: int, where: str) -> int:
    if not 1 <= number <= MOST:
        raise InputRefused(f"{where}: {number} slices cannot be")
    return number


def _divided(ds: Dataset, down: int, across: int, where: str) -> tuple[int, int]:
    if int(ds.Rows) % down or int(ds.Columns) % across:
        raise InputRefused(f"{where}: {ds.Rows} x {ds.Columns} pixels are not {down} x {across} tiles")
    return int(ds.Rows) // down, int(ds.Columns) // across
