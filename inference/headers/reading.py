"""The reading of one instance with pydicom."""

from collections.abc import Sequence

from pydicom import dcmread
from pydicom.dataset import FileDataset

from storage.blobs import Blob


def read_header(blob: Blob, keywords: Sequence[str] | None = None) -> FileDataset:
    """Read what precedes the pixels, or the elements with these keywords alone.

    Raises OSError. A malformed file makes pydicom raise errors of many kinds.
    """
    with blob.open() as file:
        return dcmread(file, stop_before_pixels=True, specific_tags=None if keywords is None else list(keywords))


def read_object(blob: Blob) -> FileDataset:
    """Read all of an instance. Raises as `read_header` does."""
    with blob.open() as file:
        return dcmread(file)
