"""The names of the files of a journal: its segments, the files of large instances beside them, and the writer's note.

The note saves readers and the writer from listing a folder that may hold a hundred thousand segments.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

SEGMENT_SUFFIX = ".log"
LARGE_SUFFIX = ".large"
WRITER = "writer.lock"  # locked by the receiver while it has the journal open; holds its WriterNote
LARGE_NAME = re.compile(rf"[0-9]{{8,}}-[0-9]+{re.escape(LARGE_SUFFIX)}")

_SEGMENT_NAME = re.compile(rf"([0-9]+){re.escape(SEGMENT_SUFFIX)}")
_NOTE_BYTES = 41


def list_numbers(folder: Path) -> list[int]:
    """Return the numbers of the segments of a journal, oldest first."""
    try:
        found = map(_SEGMENT_NAME.fullmatch, os.listdir(folder))  # faster than paths, by an order of magnitude
    except FileNotFoundError:
        return []
    return sorted(int(name[1]) for name in found if name is not None)


def list_segments(folder: Path) -> list[Path]:
    """Return the segments of a journal, oldest first."""
    return [segment_path(folder, number) for number in list_numbers(folder)]


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08}{SEGMENT_SUFFIX}"


def large_file_path(folder: Path, segment: int, number: int) -> Path:
    """Return the path for a large file. Its name tells that the file is newer than all segments before `segment`."""
    return folder / f"{segment:08}-{number}{LARGE_SUFFIX}"


class WriterNote(NamedTuple):
    """The numbers that the writer of a journal notes before it begins a segment, so that none is used twice.

    Numbers may be missing between those of segments that exist, and the last one may belong to no segment (yet).
    """

    last: int = 0  # of the last segment that was begun
    sealed: int = 0  # all segments up to this one are sealed, or never will be

    def write(self, descriptor: int) -> None:
        """Write the note over the earlier one, durably. Raises OSError."""
        os.pwrite(descriptor, f"{self.last:020} {self.sealed:020}".encode(), 0)
        os.fdatasync(descriptor)


def read_note(descriptor: int) -> WriterNote:
    """Return the note in the file WRITER. Release 0.1 noted the last number only; a lost note is one of zeros."""
    found = os.pread(descriptor, _NOTE_BYTES, 0).strip(b"\0").split(b" ")
    is_note = len(found) <= len(WriterNote()) and all(map(bytes.isdigit, found))
    return WriterNote(*map(int, found)) if is_note else WriterNote()
