"""The reading of one instance with pydicom."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag, Tag

from inference.headers.decoding import HeaderDecoder, pattern_of
from inference.headers.trimmed.scanning import read_trimmed_header
from storage.blobs import Blob, open_to_parse
from storage.errors import MalformedObject

_UIDS = tuple(map(Tag, ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")))  # of every stored instance


class UnreadableHeader(Dataset):
    """The empty header of an instance that is stored, but cannot be read."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """The header of an instance, which precedes its pixels, and the byte of the file at which it ends."""

    blob: Blob
    header: Dataset
    end: int


def read_header(blob: Blob, keywords: Sequence[str] | None = None) -> FileDataset:
    """Read what precedes the pixels, or the elements with these keywords alone, and of those no malformed ones.

    Raises as `open_to_parse` does.
    """
    with open_to_parse(blob) as file:
        header = dcmread(file, stop_before_pixels=True, specific_tags=None if keywords is None else list(keywords))
    if keywords is not None:
        _leave_out_malformed(header)
    return header


def read_object(blob: Blob) -> FileDataset:
    """Read all of an instance. Raises as `open_to_parse` does."""
    with open_to_parse(blob) as file:
        return dcmread(file)


def read_beginning(blob: Blob) -> Beginning:
    """Read what precedes the pixels of an image. Raises OSError and MemoryError.

    A malformed instance has an `UnreadableHeader`, so that it does not cost its series. That is also one of which
    pydicom misses a UID, because it reads no further or because the UID stands behind the pixels. An image without a
    SOP Class UID is left to `images_among`.
    """
    try:
        with open_to_parse(blob) as file:
            header, end = dcmread(file, stop_before_pixels=True), file.tell()
            is_read = all(_states(header, uid) for uid in _UIDS) or ("Rows" in header and "SOPClassUID" not in header)
    except MalformedObject:
        return Beginning(blob, UnreadableHeader(), 0)
    return Beginning(blob, header if is_read else UnreadableHeader(), end)


def read_beginnings(blobs: Iterable[Blob]) -> list[Beginning]:
    """Read the beginnings of the instances of one series as `read_beginning` does, but of most classic images less.

    The headers of these have a pattern, and the elements of `trimmed/elements.py` alone. Nobody may change them.
    """
    decoder = HeaderDecoder()
    return [_read_trimmed(blob, decoder) or read_beginning(blob) for blob in blobs]


def _read_trimmed(blob: Blob, decoder: HeaderDecoder) -> Beginning | None:
    """Read a trimmed header; return None if pydicom must read the whole, or to say what is malformed."""
    with blob.open() as file:
        trimmed = read_trimmed_header(file)
    if trimmed is None:
        return None
    try:
        header = decoder.decode(b"".join(trimmed.elements.values()), trimmed.implicit)
    except MemoryError:
        raise
    except Exception:  # pydicom raises errors of many kinds
        return None
    if pattern_of(header) is None:
        return None
    header.file_meta = trimmed.meta
    return Beginning(blob, header, trimmed.end)


def _states(header: Dataset, uid: BaseTag) -> bool:
    """Return True if a header states a UID. Its bytes are not converted, because this is asked of every image."""
    element = header.get_item(uid)
    return element is not None and bool((element.value or b"").strip(b" \0"))


def _leave_out_malformed(header: Dataset) -> None:
    for tag in list(header.keys()):
        try:
            header[tag]
        except Exception:  # pydicom reads values late, and raises errors of many kinds
            del header[tag]
