"""Segments as a crash leaves them."""

import os
from pathlib import Path

from storage.log.segments.reader import SegmentReader


def tear(segment: Path, cut: int = 0) -> None:
    """Take the table of a sealed segment away, and the last bytes of its last frame."""
    with SegmentReader(segment) as reader:
        size = reader.size
    os.truncate(segment, size - cut)
