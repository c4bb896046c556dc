"""The definition of an image, by which completeness, recognition, volumes and routing all decide.

Other objects come inside the series of images: raw data (which may have Rows and Columns), screenshots, presentation
states, reports. They are left out with a reason, and never cost the series.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from inference.headers.attributes import values

IMAGE_MODALITIES = frozenset({"MR", "CT", "PT"})
SCREENSHOTS = frozenset({"SCREEN SAVE", "SCREEN_SAVE", "SCREENSAVE", "SCREEN SHOT", "SCREEN_SHOT", "SCREENSHOT"})


class ImageClass(IntEnum):
    """The content of a storage class or of one object. Of a series, only the objects with the highest value count."""

    NONE = 0  # no pixels of an image: reports, presentation states, raw data, spectra
    DERIVED = 1  # segmentations and parametric maps, which have pixels but are no images of a scanner
    CAPTURE = 2  # secondary captures
    UNKNOWN = 3  # private storage classes
    IMAGE = 4


@dataclass(frozen=True)
class OddObject:
    """An object that is left out of its series, and the reason."""

    sop_instance_uid: str
    reason: str

    def __str__(self) -> str:
        return f"object {self.sop_instance_uid or 'without SOPInstanceUID'} is left out: it {self.reason}"


@lru_cache(maxsize=256)
def image_class(sop_class_uid: str) -> ImageClass:
    """Return what a storage class (PS3.4 B.5) holds."""
    name = UID(sop_class_uid).name
    if not sop_class_uid:
        return ImageClass.NONE
    if name == sop_class_uid:
        return ImageClass.UNKNOWN
    if name in ("Segmentation Storage", "Label Map Segmentation Storage", "Parametric Map Storage"):
        return ImageClass.DERIVED
    if "Image Storage" not in name:
        return ImageClass.NONE
    return ImageClass.CAPTURE if "Secondary Capture" in name else ImageClass.IMAGE


def counts_as_image(sop_class_uid: str) -> bool:
    """Return True if a study waits for objects of this storage class: images, captures, and what nobody knows."""
    return image_class(sop_class_uid) >= ImageClass.CAPTURE


def feeds_inputs(sop_class_uid: str, modality: str) -> bool:
    """Return True if a late instance of this kind could change a result: images can, captures and reports cannot."""
    return modality in IMAGE_MODALITIES and image_class(sop_class_uid) is ImageClass.IMAGE


def images_among(headers: Sequence[Dataset]) -> tuple[list[int], list[OddObject]]:
    """Return which of the objects of one series are its images, as indices, and the others with their reasons.

    Captures are images only of a series that holds nothing better. An image that names no storage class is none beside
    images that do.
    """
    ranks = [_rank(ds) for ds in headers]
    best = max((rank for rank, _ in ranks), default=ImageClass.NONE)
    if best is ImageClass.NONE:
        return [], [OddObject(_uid(ds), reason) for ds, (_, reason) in zip(headers, ranks, strict=True)]
    ranked = [n for n, (rank, _) in enumerate(ranks) if rank is best]
    pictures = _pictures([headers[n] for n in ranked])
    chosen = [n for n, odd in zip(ranked, pictures, strict=True) if not odd]
    reasons = {n: reason for n, (rank, reason) in enumerate(ranks) if rank is not best}
    reasons |= {n: odd for n, odd in zip(ranked, pictures, strict=True) if odd}
    return chosen, [OddObject(_uid(headers[n]), reasons[n]) for n in sorted(reasons)]


def _rank(ds: Dataset) -> tuple[ImageClass, str]:
    """Return what one object is, and the reason why it is no image of a series that holds better ones."""
    sop_class_uid = str(_value(ds, "SOPClassUID") or "")
    found = image_class(sop_class_uid)
    name = UID(sop_class_uid).name
    if not ("Rows" in ds and "Columns" in ds):
        return ImageClass.NONE, f"is not an image: {name or 'an unknown object'}, without Rows and Columns"
    if not sop_class_uid:
        return ImageClass.UNKNOWN, "has no SOPClassUID"
    if found is ImageClass.NONE:
        return ImageClass.NONE, f"is not an image: {name}"
    if found is ImageClass.CAPTURE or _is_screenshot(ds):
        return ImageClass.CAPTURE, "is a capture of a screen"
    if found is ImageClass.IMAGE and str(_value(ds, "SamplesPerPixel") or 1) != "1":
        return ImageClass.CAPTURE, "is a colour image beside others"
    return found, f"is of the storage class {name}"


def _is_screenshot(ds: Dataset) -> bool:
    return bool(SCREENSHOTS & {str(value).strip().upper() for value in values(_value(ds, "ImageType"))})


def _pictures(images: Sequence[Dataset]) -> list[str]:
    """Return for each image the reason why it is a picture for people beside the others; an empty text if it is not.

    Beside acquired images that is a derived one of another size, or one that states no place in space.
    """
    acquired = [ds for ds in images if "DERIVED" not in values(_value(ds, "ImageType"))]
    if len(acquired) <= len(images) / 2:
        return [""] * len(images)
    placed = not all(_has_no_place(ds) for ds in acquired)
    sizes = {(_value(ds, "Rows"), _value(ds, "Columns")) for ds in acquired}
    return [_why_picture(ds, placed, sizes) for ds in images]


def _why_picture(ds: Dataset, placed: bool, sizes: Collection[tuple[int, int]]) -> str:
    if "DERIVED" not in values(_value(ds, "ImageType")):
        return ""
    if placed and _has_no_place(ds):
        return "is a derived image without a place in space"
    return "" if (_value(ds, "Rows"), _value(ds, "Columns")) in sizes else "is a derived image of another size"


def _has_no_place(ds: Dataset) -> bool:
    return "PerFrameFunctionalGroupsSequence" not in ds and not _value(ds, "ImagePositionPatient")


def _uid(ds: Dataset) -> str:
    return str(_value(ds, "SOPInstanceUID") or "")


def _value(ds: Dataset, keyword: str) -> Any:
    """Return the value of an attribute; None if it is absent or malformed, because pydicom reads values late."""
    try:
        return ds.get(keyword)
    except Exception:  # it raises errors of many kinds
        return None
