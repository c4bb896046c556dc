"""The dates and times of a result, in the time zone of its images (PS3.3 C.12.1.1.8)."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from inference.headers.reading import read_header
from storage.blobs import Blob

OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # &ZZXX
OF_IMAGE = ("Acquisition", "Content", "Series", "Study")  # dates and times of an image, the latest as a rule first
TIMES = ["TimezoneOffsetFromUTC", "AcquisitionDateTime", *(f"{k}{what}" for k in OF_IMAGE for what in ("Date", "Time"))]
CLOCKS_DIFFER = (
    "The clocks of node and scanner differ, or the time zone of the images is unknown: by date and time, this result "
    "is older than its images."
)


def set_dates(ds: Dataset, at: datetime, image: Dataset, context: ObjectContext) -> None:
    """Set the dates and times of the result, in the time zone of `image`, the header of an image.

    TimezoneOffsetFromUTC holds for every date and time of an object, also for the copied StudyDate and StudyTime. So
    the image's offset is kept, or the one that the configured time zone had at the time of the study, and our times are
    written in it. With neither, our times are in the node's local time and the result has no offset.
    """
    zone = zone_of(image, context)
    local = at.astimezone(zone)
    for keyword in ("Content", "Series", "InstanceCreation"):
        setattr(ds, f"{keyword}Date", local.strftime("%Y%m%d"))
        setattr(ds, f"{keyword}Time", local.strftime("%H%M%S"))
    if zone is not None:
        ds.TimezoneOffsetFromUTC = local.strftime("%z")
    elif "TimezoneOffsetFromUTC" in ds:
        del ds.TimezoneOffsetFromUTC


def zone_of(image: Dataset, context: ObjectContext) -> tzinfo | None:
    """Return the offset from UTC that holds for the times of an image; None if neither image nor settings tell it."""
    stated = str(image.get("TimezoneOffsetFromUTC") or "").strip()
    if OFFSET.fullmatch(stated):
        return datetime.strptime(stated, "%z").tzinfo
    if context.time_zone is None:
        return None
    at = _moment(image, "Study") or datetime.now()
    offset = at.replace(tzinfo=context.time_zone).utcoffset() or timedelta(0)
    return timezone(timedelta(minutes=round(offset.total_seconds() / 60)))


def is_older_than_images(at: datetime, blobs: Iterable[Blob], context: ObjectContext) -> bool:
    """Return True if a result of this time would bear an earlier time than one of the images."""
    return any(_is_later(read_header(blob, TIMES), at, context) for blob in blobs)


def _is_later(image: Dataset, at: datetime, context: ObjectContext) -> bool:
    local = at.astimezone(zone_of(image, context)).replace(tzinfo=None)
    times = [_moment(image, keyword) for keyword in OF_IMAGE]
    acquired = _parsed(str(image.get("AcquisitionDateTime") or "").partition("+")[0].partition("-")[0][:14])
    return any(time > local for time in (*times, acquired) if time is not None)


def _moment(image: Dataset, keyword: str) -> datetime | None:
    date, time = (str(image.get(f"{keyword}{what}") or "").strip() for what in ("Date", "Time"))
    return _parsed(f"{date}{time[:6]}")


def _parsed(text: str) -> datetime | None:
    """Read YYYYMMDDHHMMSS, of which the end may be missing."""
    if not text.isdigit() or len(text) < 8:
        return None
    try:
        return datetime.strptime(text.ljust(14, "0")[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None
