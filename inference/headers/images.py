"""The definition of an image, by which completeness, recognition, volumes and routing all decide.

Other objects come inside the series of images: raw data (which may have Rows and Columns), screenshots, presentation
states, reports, and what cannot be read. They are left out with a reason, and never cost the series.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from inference.headers.attributes import values
from inference.headers.decoding import of_each
from inference.headers.reading import UnreadableHeader

IMAGE_MODALITIES = frozenset({"MR", "CT", "PT"})
FEW = 3  # images beside others that make no volume of their own
MOST_REASONS = 8  # in the text about one series
SAME_DIRECTION = 1e-3  # largest difference of a direction cosine
SAME_PLACE = 0.05  # mm
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
    """An object that is left out of its series, by its Instance Number, and the reason."""

    number: int | None
    reason: str

    def __str__(self) -> str:
        name = "an object without number" if self.number is None else f"object {self.number}"
        return f"{name} is left out: it {self.reason}"


def told_odd(odd: Sequence[OddObject]) -> list[str]:
    """Return sentences about the objects that are left out: one for each reason, at most MOST_REASONS."""
    reasons = Counter(one.reason for one in odd).most_common()
    told = [
        f"{count} objects are left out: each {reason}"
        if count > 1
        else next(str(one) for one in odd if one.reason == reason)
        for reason, count in reasons[:MOST_REASONS]
    ]
    rest = sum(count for _, count in reasons[MOST_REASONS:])
    return [*told, f"{rest} further objects are left out"] if rest else told


def image_name(ds: Dataset | Mapping[str, Any]) -> str:
    """Return the name of an image in sentences for people: its Instance Number, as viewers show it."""
    number = _number(ds)
    return "an image without number" if number is None else f"image {number}"


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


def may_be_image(ds: Dataset) -> bool:
    """Return True if an object that is no image might feed an input if all of it could be read."""
    told = (str(_value(ds, keyword) or "") for keyword in ("SOPClassUID", "Modality"))
    return isinstance(ds, UnreadableHeader) or feeds_inputs(*told)


def images_among(headers: Sequence[Dataset]) -> tuple[list[int], list[OddObject]]:
    """Return which of the objects of one series are its images, as indices, and the others with their reasons.

    Captures are images only of a series that holds nothing better. An image that names no storage class is none beside
    images that do.
    """
    ranks = of_each(headers, _rank)
    best = max((rank for rank, _ in ranks), default=ImageClass.NONE)
    if best is ImageClass.NONE:
        return [], [OddObject(_number(ds), reason) for ds, (_, reason) in zip(headers, ranks, strict=True)]
    ranked = [n for n, (rank, _) in enumerate(ranks) if rank is best]
    reasons = {n: reason for n, (rank, reason) in enumerate(ranks) if rank is not best}
    chosen = ranked
    for why in (_pictures, _strays):
        odd = why([headers[n] for n in chosen])
        reasons |= {n: reason for n, reason in zip(chosen, odd, strict=True) if reason}
        chosen = [n for n in chosen if n not in reasons]
    return chosen, [OddObject(_number(headers[n]), reasons[n]) for n in sorted(reasons)]


def _rank(ds: Dataset) -> tuple[ImageClass, str]:
    """Return what one object is, and the reason why it is no image of a series that holds better ones."""
    if isinstance(ds, UnreadableHeader):
        return ImageClass.NONE, "cannot be read as DICOM"
    sop_class_uid = str(_value(ds, "SOPClassUID") or "")
    found = image_class(sop_class_uid)
    name = UID(sop_class_uid).name
    if not (_value(ds, "Rows") and _value(ds, "Columns")):
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
    is_derived = of_each(images, _is_derived)
    acquired = [ds for ds, derived in zip(images, is_derived, strict=True) if not derived]
    if len(acquired) <= len(images) / 2 or len(acquired) == len(images):
        return [""] * len(images)
    placed = not all(_has_no_place(ds) for ds in acquired)
    sizes = set(of_each(acquired, _size))
    return [_why_picture(ds, placed, sizes) if derived else "" for ds, derived in zip(images, is_derived, strict=True)]


def _is_derived(ds: Dataset) -> bool:
    return "DERIVED" in values(_value(ds, "ImageType"))


def _size(ds: Dataset) -> tuple[int, int]:
    return _value(ds, "Rows"), _value(ds, "Columns")


def _why_picture(ds: Dataset, placed: bool, sizes: Collection[tuple[int, int]]) -> str:
    """Return the reason why a derived image is a picture."""
    if placed and _has_no_place(ds):
        return "is a derived image without a place in space"
    return "" if _size(ds) in sizes else "is a derived image of another size"


def _strays(images: Sequence[Dataset]) -> list[str]:
    """Return for each image the reason why it is none of the volume that most of the others make; else an empty text.

    Those are localizers, and images that were derived or lie in another direction, while fewer than FEW are like them.
    """
    views = [
        _View(*direction, _floats(ds, "ImagePositionPatient", 3))
        for ds, direction in zip(images, of_each(images, _direction_of), strict=True)
    ]
    kinds = Counter((view.image_type, view.direction) for view in views)
    alike = {kind: _number_alike(kind, kinds) for kind in kinds}
    rare = {kind for kind, number in alike.items() if number < FEW <= len(views) - number}
    if not rare:
        return [""] * len(views)
    others = [view for view in views if (view.image_type, view.direction) not in rare]
    return [_why_stray(v, others, len(views)) if (v.image_type, v.direction) in rare else "" for v in views]


_ViewKind = tuple[tuple[str, ...], tuple[float, ...] | None]


def _number_alike(kind: _ViewKind, kinds: Counter[_ViewKind]) -> int:
    image_type, direction = kind
    return sum(
        number
        for (other, towards), number in kinds.items()
        if other == image_type and _is_near(direction, towards, SAME_DIRECTION)
    )


def _why_stray(view: "_View", others: Sequence["_View"], total: int) -> str:
    if view.is_localizer and 2 * sum(not other.is_localizer for other in others) > total:
        return "is a localizer beside other images"
    if view.direction is None:
        return ""
    parallel = [other for other in others if other.is_parallel(view)]
    main = others[0].direction if others else None
    united = main is not None and 2 * sum(_is_near(o.direction, main, SAME_DIRECTION) for o in others) > total
    if united and not parallel:
        return "lies in another direction than the other images"
    acquired = sum(not other.is_derived for other in others)
    if view.is_derived and 2 * acquired > total and any(o.is_at(view) and not o.is_derived for o in parallel):
        return "is a derived image at the place of another one"
    return ""


@dataclass(frozen=True)
class _View:
    """The statements of an image about its type and place. `direction` is None if the image itself states none."""

    image_type: tuple[str, ...]
    direction: tuple[float, ...] | None
    place: tuple[float, ...] | None

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.image_type

    @property
    def is_derived(self) -> bool:
        return "DERIVED" in self.image_type

    def is_parallel(self, other: "_View") -> bool:
        return _is_near(self.direction, other.direction, SAME_DIRECTION)

    def is_at(self, other: "_View") -> bool:
        return self.place is not None and _is_near(self.place, other.place, SAME_PLACE)


def _direction_of(ds: Dataset) -> _ViewKind:
    image_type = tuple(str(value).strip().upper() for value in values(_value(ds, "ImageType")))
    direction = _floats(ds, "ImageOrientationPatient", 6)
    if direction is not None and not _is_direction(direction):
        direction = None  # a broken header, which the volumes name
    return image_type, direction


def _is_direction(cosines: tuple[float, ...]) -> bool:
    row, column = cosines[:3], cosines[3:]
    pairs = ((row, row, 1.0), (column, column, 1.0), (row, column, 0.0))
    return all(abs(sum(a * b for a, b in zip(one, other, strict=True)) - is_) < 1e-2 for one, other, is_ in pairs)


def _floats(ds: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    try:
        found = tuple(float(value) for value in values(_value(ds, keyword)))
    except (TypeError, ValueError):
        return None
    return found if len(found) == length else None


def _is_near(one: tuple[float, ...] | None, other: tuple[float, ...] | None, apart: float) -> bool:
    if one is None or other is None:
        return one is other
    return all(abs(a - b) <= apart for a, b in zip(one, other, strict=True))


def _has_no_place(ds: Dataset) -> bool:
    return "PerFrameFunctionalGroupsSequence" not in ds and not _value(ds, "ImagePositionPatient")


def _number(ds: Dataset | Mapping[str, Any]) -> int | None:
    try:
        return int(_value(ds, "InstanceNumber"))
    except (TypeError, ValueError):
        return None


def _value(ds: Dataset | Mapping[str, Any], keyword: str) -> Any:
    """Return the value of an attribute; None if it is absent or malformed, because pydicom reads values late."""
    try:
        return ds.get(keyword)
    except Exception:  # it raises errors of many kinds
        return None
