"""Visits: the time of the acquisition of a study, read from the headers of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pydicom.dataset import Dataset

from inference.headers.reading import read_header
from storage.blobs import Blob
from storage.errors import MalformedObject

SAMPLES = 3  # images of a study to try: one readable header is enough
_ELEMENTS = ["StudyDate", "StudyTime", "AcquisitionDate", "AcquisitionDateTime"]


@dataclass(frozen=True)
class Visit:
    """The date and the time of a study, as one of its headers gives them.

    An attribute that the header does not state is empty, or None for the day.
    """

    day: date | None
    time: str  # HHMMSS and a fraction

    def is_before(self, other: "Visit") -> bool | None:
        """Return True if this visit was before the other; None if the dates and times of both give no order."""
        if self.day is None or other.day is None:
            return None
        if self.day != other.day:
            return self.day < other.day
        return self.time < other.time if self.time and other.time and self.time != other.time else None


def read_visit(blobs: Sequence[Blob]) -> Visit | None:
    """Read the visit from the first readable header; None if all are malformed.

    Raises OSError if no header gives the visit, and one of the instances cannot be read now.
    """
    ds = _first_header(blobs)
    return None if ds is None else visit_of(ds)


def visit_of(ds: Dataset) -> Visit:
    """Return the visit by Study Date and Study Time (PS3.3 C.7.2.1), or by the date of acquisition without a time."""
    day = _day(ds.get("StudyDate"))
    time = _text(ds.get("StudyTime")).replace(":", "") if day is not None else ""
    whole, _, fraction = time.partition(".")
    return Visit(
        day=day or acquisition_date(ds),
        time=f"{whole:0<6}.{fraction:0<6}" if whole.isdigit() else "",
    )


def read_acquisition_date(blobs: Sequence[Blob]) -> date | None:
    """Read the date of acquisition from the first readable header; None if there is none."""
    try:
        ds = _first_header(blobs)
    except OSError:  # Whoever needs the images will meet the error. A missing date alone stops nobody.
        return None
    return None if ds is None else acquisition_date(ds)


def acquisition_date(ds: Dataset) -> date | None:
    """Return the day on which an image was acquired, or the day of its study if the image does not give it."""
    keywords = ("AcquisitionDate", "AcquisitionDateTime", "StudyDate")
    return next((day for day in (_day(ds.get(keyword)) for keyword in keywords) if day is not None), None)


def _first_header(blobs: Sequence[Blob]) -> Dataset | None:
    trouble: OSError | None = None
    for blob in blobs:
        try:
            ds = _header(blob)
        except OSError as error:
            trouble = error
            continue
        if ds is not None:
            return ds
    if trouble is not None:
        raise trouble
    return None


def _header(blob: Blob) -> Dataset | None:
    try:
        return read_header(blob, _ELEMENTS)
    except MalformedObject:  # Recognising the series reports the damage.
        return None


def _day(value: Any) -> date | None:
    """Return the date of a DA or DT value. "1997.01.31" is a DA of ACR-NEMA times (PS3.5 6.2)."""
    try:
        return datetime.strptime(_text(value).replace(".", "")[:8], "%Y%m%d").date()
    except ValueError:
        return None


def _text(value: Any) -> str:
    return str(value or "").strip(" \0")
