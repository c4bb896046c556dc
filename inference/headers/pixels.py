"""The pixels of an image, which are read behind its header."""

import struct
from io import BufferedReader
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from inference.headers.decoding import pattern_of
from inference.headers.images import image_name
from inference.headers.reading import Beginning
from storage.blobs import open_to_parse
from storage.errors import InputRefused

_NUMBERS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_EXPLICIT, _IMPLICIT = struct.Struct("<HH2s2xL"), struct.Struct("<HHL")  # group, element, VR, length (PS3.5 7.1)
_PIXEL_DATA = (0x7FE0, 0x0010)


def read_pixels(image: Beginning) -> NDArray[Any]:
    """Return the stored values of an image as (frame, row, column).

    The file was closed since its header was read, because a series may have more instances than a process may have open
    files. Parsing the header again would take as long as reading the pixels. Raises InputRefused if the pixels cannot
    be decoded, and as `open_to_parse` does.
    """
    ds = image.header
    with open_to_parse(image.blob) as file:
        if ds.file_meta.TransferSyntaxUID.is_deflated:  # its offsets in the file are not those in the dataset
            return _decoded(dcmread(file))
        file.seek(image.end)
        if (plain := _read_plain(ds, file)) is not None:
            return plain
        if pattern_of(ds) is not None:  # the header may lack what the decoder asks for
            file.seek(0)
            ds = dcmread(file)
        else:
            file.seek(image.end)
            implicit, little = ds.original_encoding
            ds.update(read_dataset(file, bool(implicit), bool(little)))
    return _decoded(ds)


def _read_plain(ds: Dataset, file: BufferedReader) -> NDArray[Any] | None:
    """Read the pixels that begin here if they are stored as numbers; None if they are not as the header says.

    Most images are such. To read them here takes a fifth of the time of pydicom, which decodes or refuses all others.
    """
    if ds.file_meta.TransferSyntaxUID not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    numbers = [ds.get(keyword) for keyword in _NUMBERS]
    grey = ds.get("SamplesPerPixel") in (1, None) and ds.get("PhotometricInterpretation") in _GREY
    if not grey or not all(isinstance(number, int) for number in numbers):
        return None
    rows, columns, allocated, stored, signed = numbers
    unused = allocated - stored
    if allocated not in (8, 16, 32) or not 0 <= unused < allocated or signed not in (0, 1):
        return None
    shape = (int(ds.get("NumberOfFrames") or 1), rows, columns)
    size = shape[0] * rows * columns * allocated // 8
    if _length(ds, file) != size + size % 2:
        return None
    found = np.empty(shape, f"<{'ui'[signed]}{allocated // 8}")
    if file.readinto(found.data) != size:
        return None
    if unused:  # their values are unknown (PS3.5 8.1.1)
        np.left_shift(found, unused, out=found)
        np.right_shift(found, unused, out=found)
    return found


def _length(ds: Dataset, file: BufferedReader) -> int | None:
    """Read the beginning of Pixel Data, and return the length of its value; None if another element is here."""
    implicit, _ = ds.original_encoding
    layout = _IMPLICIT if implicit else _EXPLICIT
    head = file.read(layout.size)
    if len(head) < layout.size:
        return None
    group, element, *vr, length = layout.unpack(head)
    return int(length) if (group, element) == _PIXEL_DATA and vr in ([], [b"OB"], [b"OW"]) else None


def _decoded(ds: Dataset) -> NDArray[Any]:
    if not ds.get("SamplesPerPixel"):
        ds.SamplesPerPixel = 1  # an image that states none is no colour image, but the decoder asks for a number
    try:
        return pixel_array(ds).reshape(-1, int(ds.Rows), int(ds.Columns))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many kinds, and their texts may quote the header
        raise InputRefused(
            f"the pixels of {image_name(ds)} cannot be decoded ({type(error).__name__}, "
            f"transfer syntax {ds.file_meta.TransferSyntaxUID.name})"
        ) from None
