"""The comparison of two instances that have the same SOP Instance UID."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from storage.blobs import Blob
from storage.machine import is_trouble_of_the_machine
from storage.records.instances import ContentHashes

LARGEST_DECODED_BYTES = 512 * 2**20  # of one instance; two are decoded to be compared
PIXEL_TAGS = frozenset(Tag(keyword) for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
# A change of the encoding changes these too. They say nothing about the image.
ENCODING = frozenset(
    Tag(keyword)
    for keyword in (
        "PhotometricInterpretation", "PlanarConfiguration", "InstanceCreationDate", "InstanceCreationTime",
        "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "DataSetTrailingPadding", "SpecificCharacterSet",
    )
)  # fmt: skip
# A change of one of these makes another image, whatever its pixels.
GEOMETRY = frozenset(
    Tag(keyword)
    for keyword in (
        "SOPClassUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
        "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames", "BitsStored", "HighBit",
        "PixelRepresentation", "SamplesPerPixel", "RescaleSlope", "RescaleIntercept", "ImageType",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContentSequence", "SegmentSequence",
    )
)  # fmt: skip

# These say how the bytes of the pixels are read.
PIXEL_FORM = frozenset(
    Tag(keyword)
    for keyword in (
        "Rows", "Columns", "NumberOfFrames", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    )
)  # fmt: skip


class Difference(StrEnum):
    """The difference between an instance and the known one with the same UID."""

    NONE = "NONE"  # the same attributes and pixels, in whatever transfer syntax
    ATTRIBUTES = "ATTRIBUTES"  # the same image under other attributes: a corrected name, for example
    IMAGE = "IMAGE"  # other pixels or another geometry


@dataclass(frozen=True)
class Content:
    """The content of an instance: where it can be read, its transfer syntax and its hashes."""

    blob: Blob
    transfer_syntax_uid: str
    hashes: ContentHashes


def compare(known: Content, newcomer: Content) -> Difference:
    """Compare two instances: by their hashes, by their headers if these differ, by decoded pixels at last.

    If one cannot be read or decoded, return IMAGE, so that both are kept. Raises OSError if the disk is in trouble,
    which says nothing about the instances.
    """
    if known.hashes == newcomer.hashes:
        return Difference.NONE
    if _differ_in_pixels(known, newcomer):
        return Difference.IMAGE
    try:
        one, other = _read(known), _read(newcomer)
        changed = _changed(one, other)
        if changed & GEOMETRY or not _same_pixels(one, other, known, newcomer):
            return Difference.IMAGE
    except Exception as error:  # damaged objects make a parser fail in many ways
        if is_trouble_of_the_machine(error):
            raise
        return Difference.IMAGE
    return Difference.ATTRIBUTES if changed else Difference.NONE


def has_same_pixels(known: Content, newcomer: Content) -> bool:
    """Return True if two instances of different series have the same pixels, so that one is a copy of the other.

    Objects without pixels are compared as `compare` does. If one cannot be read or decoded, return False. Raises as
    `compare` does.
    """
    if _differ_in_pixels(known, newcomer):
        return False
    try:
        one, other = _read(known), _read(newcomer)
        decisive = PIXEL_FORM if known.hashes.pixels else GEOMETRY
        return not _changed(one, other) & decisive and _same_pixels(one, other, known, newcomer)
    except Exception as error:  # as above
        if is_trouble_of_the_machine(error):
            raise
        return False


def _differ_in_pixels(one: Content, other: Content) -> bool:
    """Return True if the hashes alone show that the pixels differ: in one transfer syntax, or if only one has any."""
    if one.hashes.pixels == other.hashes.pixels:
        return False
    return one.transfer_syntax_uid == other.transfer_syntax_uid or not (one.hashes.pixels and other.hashes.pixels)


def _read(one: Content) -> Dataset:
    with one.blob.open() as file:
        return dcmread(file)


def _changed(one: Dataset, other: Dataset) -> set[BaseTag]:
    """Return the top-level attributes whose values differ, apart from padding and character set."""
    tags = (set(one.keys()) | set(other.keys())) - PIXEL_TAGS - ENCODING
    tags = {tag for tag in tags if tag.element != 0}  # group lengths (retired) describe the encoding
    return {tag for tag in tags if _value(one, tag) != _value(other, tag)}


def _value(ds: Dataset, tag: BaseTag) -> Any:
    return ds[tag].value if tag in ds else None


def _same_pixels(one: Dataset, other: Dataset, known: Content, newcomer: Content) -> bool:
    if PIXEL_TAGS & one.keys() != PIXEL_TAGS & other.keys():
        return False
    if known.hashes.pixels == newcomer.hashes.pixels:
        return True
    if max(_decoded_bytes(one), _decoded_bytes(other)) > LARGEST_DECODED_BYTES:
        return False
    return bool((one.pixel_array == other.pixel_array).all())


def _decoded_bytes(ds: Dataset) -> int:
    frames, samples = int(ds.get("NumberOfFrames") or 1), int(ds.get("SamplesPerPixel") or 1)
    pixels = int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0)
    return frames * samples * pixels * int(ds.get("BitsAllocated") or 8) // 8
