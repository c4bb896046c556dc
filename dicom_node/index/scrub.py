"""The scrub: it reads everything that the log holds again and again, slowly, and tells of what the disk has lost.

It reads sealed segments and the files of large instances from the disk, not from the page cache. Release 0.1's files of
single instances are left to `dicom-node fsck`.
"""

import errno
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_node.runtime.logs import fields
from storage.errors import Retriable
from storage.log.instances import InstanceStore
from storage.log.segments.frames import Frame, FrameKind, instance_of
from storage.log.segments.judged import FrameVerdict, JudgedFrame, judge_frames
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments, address_of
from storage.machine import is_trouble_of_the_machine
from storage.records.instances import LoggedInstance
from storage.records.problems import ProblemKind
from storage.tables.problems import Problems

log = logging.getLogger(__name__)

SCRUB_SECONDS = 1.0  # between two steps
DAY_SECONDS = 24 * 3600.0  # a round takes as long at the least, and damaged segments are read as often
MOST_TOLD = 50  # problems of one segment
SCRUBBED = "scrubbed"  # beside the journals: the last segment that was read
_MEGABYTE = 2**20

Deleted = Callable[[str, int], Mapping[int, int]]


@dataclass(frozen=True)
class _Damage:
    """A problem to be told. `key` names the place."""

    key: str
    text: str
    study_instance_uid: str = ""


class Scrub:
    """The scrub of all journals below `journals`, step by step.

    `deleted(receiver, number)` returns the end of each frame of a segment that was deleted, by its offset, as the log
    says at the time of the call.
    """

    def __init__(
        self,
        journals: Path,
        instances: InstanceStore,
        problems: Problems,
        megabytes_per_second: float,
        deleted: Deleted,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journals = journals
        self._segments = Segments(journals)
        self._instances = instances
        self._problems = problems
        self._bytes_per_step = megabytes_per_second * _MEGABYTE * SCRUB_SECONDS
        self._deleted = deleted
        self._monotonic = monotonic
        self._left = 0.0  # bytes that this step may read; below zero, later steps make up for a large file
        self._work = self._rounds()

    def advance(self) -> None:
        """Read as much as the rate allows for one step. Raises Retriable."""
        self._left = min(self._left, 0.0) + self._bytes_per_step
        try:
            while self._left > 0:
                read = next(self._work)
                if read is None:
                    return
                self._left -= read
        except Exception as error:
            self._work = self._rounds()  # from the segment that was not finished
            if is_trouble_of_the_machine(error):
                raise Retriable(f"The journals cannot be read ({getattr(error, 'strerror', '')})") from None
            raise

    def _rounds(self) -> Iterator[int | None]:
        """Yield the number of bytes whenever some were read, and None while there is nothing to do."""
        after = self._read_note()
        looked_again = -math.inf
        while True:
            began = self._monotonic()
            for receiver, number in self._following(after):
                if self._monotonic() - looked_again > DAY_SECONDS:
                    looked_again = self._monotonic()
                    yield from self._look_again()
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield from self._segment(receiver, number)
                self._write_note(receiver, number)
            if looked_again < began:
                yield from self._look_again()
            after = None
            log.info("Everything that the log holds was read again", extra=fields("log_scrubbed"))
            while self._monotonic() - began < DAY_SECONDS:
                yield None

    def _following(self, after: tuple[str, int] | None) -> Iterator[tuple[str, int]]:
        """Yield the segments of all receivers that come after this one."""
        for receiver in self._segments.receivers():
            if after is None or receiver >= after[0]:
                number = after[1] + 1 if after is not None and receiver == after[0] else 0
                while numbers := self._segments.following(receiver, number):
                    yield from ((receiver, number) for number in numbers)
                    number = numbers[-1] + 1

    def _look_again(self) -> Iterator[int]:
        """Read the segments that have problems, some of which may have been restored."""
        places = {key.partition(":")[0] for key in self._problems.keys(ProblemKind.DAMAGED, "")}
        for place in sorted(places)[:MOST_TOLD]:
            receiver, _, number = place.rpartition("/")
            with suppress(FileNotFoundError):
                yield from self._segment(receiver, int(number))

    # -- one segment ---------------------------------------------------------------------------------------------------

    def _segment(self, receiver: str, number: int) -> Iterator[int]:
        suspects: list[JudgedFrame] = []
        with self._segments.open(receiver, number) as reader:
            if reader.is_live:
                return
            reader.drop_cached()
            for part in judge_frames(reader, bodies=True):
                yield part.end - part.offset
                frame = part.frame
                if part.verdict is FrameVerdict.DAMAGED:
                    suspects.append(part)
                elif frame is not None and frame.kind is FrameKind.LARGE_INSTANCE:
                    yield address_of(frame, receiver, number).length
                    if not self._is_file_intact(receiver, number, frame):
                        suspects.append(part)
        self._tell(receiver, number, suspects)

    def _is_file_intact(self, receiver: str, number: int, frame: Frame) -> bool:
        if not self._segments.has_file(receiver, frame):
            return False
        hashes = instance_of(frame.meta).hashes
        blob = self._segments.blob(address_of(frame, receiver, number), hashes.checksum if hashes else "")
        try:
            return hashes is None or blob.is_intact()  # release 0.1 noted none
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOENT):
                raise
            return False

    # -- what is told --------------------------------------------------------------------------------------------------

    def _tell(self, receiver: str, number: int, suspects: list[JudgedFrame]) -> None:
        """Open the problems of a segment, and end those of frames that are whole again."""
        prefix = f"{receiver}/{number:08}:"
        damages: list[_Damage] = []
        if suspects:
            with self._segments.open(receiver, number) as reader:
                deleted = self._deleted(receiver, number)
                for suspect in suspects:
                    damages += self._damages(reader, receiver, number, suspect, deleted)
        told = {damage.key: damage for damage in damages[:MOST_TOLD]}
        for damage in told.values():
            if self._problems.open(ProblemKind.DAMAGED, damage.key, damage.text, damage.study_instance_uid):
                extra = fields("damage_found", journal=receiver, study=damage.study_instance_uid)
                log.error("The scrub has found damage: %s", damage.text, extra=extra)
        for key in self._problems.keys(ProblemKind.DAMAGED, prefix):
            if key not in told and self._problems.close(ProblemKind.DAMAGED, key):
                log.info("What was damaged at %s is whole again", key, extra=fields("damage_mended", journal=receiver))

    def _damages(
        self, reader: SegmentReader, receiver: str, number: int, suspect: JudgedFrame, deleted: Mapping[int, int]
    ) -> Iterator[_Damage]:
        """Look at a suspect once more, because it may have been deleted since the reader was opened."""
        segment = f"{receiver}/{number:08}"
        found = self._instances.logged(receiver, number, suspect.offset, suspect.end)
        listed = [one for one in found if one.frame_offset not in deleted]
        if suspect.verdict is FrameVerdict.WHOLE:
            assert suspect.frame is not None
            name = suspect.frame.meta["file"]
            # Without a row, the instance was deleted, or never acknowledged.
            if listed and not self._is_file_intact(receiver, number, suspect.frame):
                what = "is damaged" if (self._journals / receiver / name).exists() else "is missing"
                yield _damage(segment, listed[0], f"the file {name} beside segment {segment} {what}")
            return
        for part in judge_frames(reader, bodies=True, start=suspect.offset):
            if part.offset >= suspect.end:
                return
            if part.verdict is FrameVerdict.DAMAGED and not _is_deleted(part, deleted):
                here = [one for one in listed if part.offset <= one.frame_offset < part.end]
                for one in here:
                    yield _damage(segment, one, f"its bytes at {one.frame_offset} of segment {segment} are damaged")
                if not here and not self._instances.is_repeated(receiver, number, part.offset, part.end):
                    size = part.end - part.offset
                    text = (
                        f"{size} bytes at {part.offset} of segment {segment} are damaged; no instance is listed there"
                    )
                    yield _Damage(f"{segment}:{part.offset}", text)

    # -- where it is ---------------------------------------------------------------------------------------------------

    def _read_note(self) -> tuple[str, int] | None:
        try:
            receiver, number = json.loads((self._journals / SCRUBBED).read_bytes())
            return str(receiver), int(number)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _write_note(self, receiver: str, number: int) -> None:
        (self._journals / SCRUBBED).write_text(json.dumps([receiver, number]), encoding="utf-8")


def _damage(segment: str, instance: LoggedInstance, what: str) -> _Damage:
    text = f"SOP instance {instance.sop_instance_uid} cannot be read: {what}"
    return _Damage(f"{segment}:{instance.frame_offset}", text, instance.study_instance_uid)


def _is_deleted(part: JudgedFrame, deleted: Mapping[int, int]) -> bool:
    """Return True if deleted frames explain all of a damaged part."""
    at = part.offset
    while at in deleted and at < part.end:
        at = deleted[at]
    return at >= part.end
