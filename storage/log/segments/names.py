"""The names of the files of a journal: its segments, and the files of large instances beside them."""

import re
from pathlib import Path

SEGMENT_SUFFIX = ".log"
LARGE_SUFFIX = ".large"
LARGE_NAME = re.compile(rf"[0-9]{{8,}}-[0-9]+{re.escape(LARGE_SUFFIX)}")


def list_segments(folder: Path) -> list[Path]:
    """Return the segments of a journal, oldest first."""
    return sorted(folder.glob(f"[0-9]*{SEGMENT_SUFFIX}"))


def segment_number(segment: Path) -> int:
    return int(segment.name.removesuffix(SEGMENT_SUFFIX))


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08}{SEGMENT_SUFFIX}"


def large_file_path(folder: Path, segment: int, number: int) -> Path:
    """Return the path for a large file. Its name tells that the file is newer than all segments before `segment`."""
    return folder / f"{segment:08}-{number}{LARGE_SUFFIX}"
