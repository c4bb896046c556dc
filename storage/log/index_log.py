"""The log of the index role, which outlives the database: what was indexed in which order, own results, and deletions.

It is a journal as that of a receiver (`storage.log.journal`), with frames of other kinds, in a folder of its own. The
index role alone writes it, or a command in its place. Anyone may read it.
"""

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from storage.errors import DamagedFrame, StorageFull
from storage.log.deletion.records import DeletedFrame, Deletion, RoutedRevisions, TakenRange
from storage.log.journal import Journal
from storage.log.segments.frames import Frame, FrameKind, NewFrame, new_frame
from storage.log.segments.reader import NOTHING_DELETED
from storage.log.segments.store import Segments

log = logging.getLogger(__name__)

RESERVE = "reserve"  # a file of the folder: space that is given back where a full disk leaves none to log a deletion
RESERVE_BYTES = 4 * 2**20
SEGMENT_BYTES = 4 * 2**20  # the last segment is read at each start, in about half a second


class LoggedFrame(NamedTuple):
    """A frame of the log: its kind, its meta, and its body where the kind has one."""

    kind: FrameKind
    meta: dict[str, Any]
    body: bytes


class IndexLog:
    """The log of the index role in `folder`. It must be opened before anything is written, and not for reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._journal = Journal(folder, segment_bytes=SEGMENT_BYTES)
        self._segments = Segments(folder.parent)
        self._is_open = False

    def open(self) -> None:
        """Begin to write, and seal what an earlier process left. Nothing happens if it is open.

        Raises Permanent if another process writes the log, and Retriable.
        """
        if not self._is_open:
            self._journal.open()
            self._is_open = True
            self.keep_reserve()

    def close(self) -> None:
        self._journal.close()
        self._is_open = False

    # -- writing -------------------------------------------------------------------------------------------------------

    def take(self, taken: TakenRange) -> None:
        """Note that frames are about to be indexed. It is not flushed: what is lost of the order is made anew."""
        self._journal.append(new_frame(FrameKind.TAKEN, vars(taken)))

    def own(self, sop_instance_uids: Collection[str]) -> None:
        """Note results of this node, so that they are known again after the loss of the database."""
        body = json.dumps(list(sop_instance_uids)).encode()
        self._append(new_frame(FrameKind.OWN, {}, [body]))

    def route(self, routed: RoutedRevisions) -> None:
        """Note studies that were routed, so that they are not analysed again after the loss of the database."""
        body = json.dumps(routed.studies).encode()
        self._append(new_frame(FrameKind.ROUTED, {}, [body]))

    def delete(self, deletion: Deletion) -> None:
        """Note what is deleted, durably. Nothing may be removed before."""
        meta = {
            "key": deletion.key,
            "study": deletion.study_instance_uid,
            "reason": deletion.reason,
            "at": deletion.at.isoformat(),
            "instances": deletion.instances,
        }
        body = json.dumps({"frames": deletion.frames, "files": deletion.files}).encode()
        self._append(new_frame(FrameKind.DELETION, meta, [body]))

    def deleted(self, key: str) -> None:
        """Note, durably, that nothing is left of what the deletion with this key names."""
        self._append(new_frame(FrameKind.DELETED, {"key": key}))

    def keep_reserve(self) -> None:
        """Reserve space for the next deletion, unless it is reserved or the disk is full."""
        reserve = self.folder / RESERVE
        with suppress(OSError):
            if reserve.exists() and reserve.stat().st_blocks * 512 >= RESERVE_BYTES:
                return
            descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def _append(self, frame: NewFrame) -> None:
        try:
            self._journal.append(frame, flush=True)
        except StorageFull:
            if not release_reserve(self.folder):
                raise
            self._journal.append(frame, flush=True)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, *kinds: FrameKind) -> Iterator[LoggedFrame]:
        """Yield the frames of these kinds in the order in which they were written.

        Others are not read where a segment is sealed. A damaged frame is told in the log and left out.
        """
        for number in self._segments.numbers(self.folder.name):
            yield from self._read(number, kinds)

    def _read(self, number: int, kinds: Collection[FrameKind]) -> Iterator[LoggedFrame]:
        with self._segments.open(self.folder.name, number) as reader:
            for frame in reader.frames_of(kinds):
                try:
                    yield LoggedFrame(frame.kind, frame.meta, reader.body(frame))
                except DamagedFrame:
                    _tell_damaged(number, frame)

    def history(self, reached: Mapping[str, tuple[int, int]]) -> list[TakenRange | RoutedRevisions]:
        """Return what the database has not got, in the order in which it was indexed; nothing if it has everything.

        `reached` are segment and offset up to which each journal is indexed in the database. A range that was taken
        again, after the database was replaced or did not answer, stands where it came last.
        """
        found: list[list[TakenRange | RoutedRevisions]] = []
        for number in reversed(self._segments.numbers(self.folder.name)):
            here = [_history(one) for one in self._read(number, (FrameKind.TAKEN, FrameKind.ROUTED))]
            ranges = [one for one in here if isinstance(one, TakenRange)]
            found.append(here)
            if ranges and not any(_is_behind(one, reached) for one in ranges):
                break  # everything before it is in the database too
        kept = in_order([one for here in reversed(found) for one in here])
        lacking = next(
            (n for n, one in enumerate(kept) if isinstance(one, TakenRange) and _is_behind(one, reached)), None
        )
        return [] if lacking is None else kept[lacking:]

    def routed(self) -> set[tuple[str, int]]:
        """Return all revisions of studies that were noted as routed."""
        return {(study, revision) for one in self.read(FrameKind.ROUTED) for study, revision in json.loads(one.body)}

    def own_results(self) -> set[str]:
        """Return the SOP Instance UIDs of all results of this node that were noted."""
        return {uid for one in self.read(FrameKind.OWN) for uid in json.loads(one.body)}

    def deletions(self) -> Iterator[Deletion]:
        """Yield all deletions, the oldest first."""
        return map(_deletion, self.read(FrameKind.DELETION))

    def unfinished(self) -> list[Deletion]:
        """Return the deletions of which something may be left."""
        found: dict[str, Deletion] = {}
        for one in self.read(FrameKind.DELETION, FrameKind.DELETED):
            if one.kind is FrameKind.DELETION:
                found[one.meta["key"]] = _deletion(one)
            else:
                found.pop(one.meta["key"], None)
        return list(found.values())


class DeletedFrames:
    """The places of all deleted frames in segments that exist, for readers of whole segments.

    An instance that has a row is not deleted, so that whoever reads by address need not ask.
    """

    def __init__(self, journals: Path) -> None:
        self._segments = Segments(journals)
        self._ends: dict[tuple[str, int], dict[int, int]] = {}

    def add(self, deletion: Deletion) -> None:
        """Note the frames of a deletion, but for those whose segments are gone."""
        for receiver, number in segments_of(deletion):
            if self._segments.exists(receiver, number):
                self._ends.setdefault((receiver, number), {})
        for frame in deletion.frames:
            ends = self._ends.get((frame.receiver, frame.segment))
            if ends is not None:
                ends[frame.offset] = frame.end

    def segments(self) -> list[tuple[str, int]]:
        """Return the receivers and numbers of the segments in which frames were deleted."""
        return sorted(self._ends)

    def of(self, receiver: str, number: int) -> Mapping[int, int]:
        """Return the ends of the deleted frames of a segment by their offsets."""
        return self._ends.get((receiver, number), NOTHING_DELETED)


def read_deleted_frames(index_log: Path, journals: Path) -> DeletedFrames:
    """Return the deleted frames that a log of the index role, which may be written meanwhile, tells of."""
    deleted = DeletedFrames(journals)
    for deletion in IndexLog(index_log).deletions():
        deleted.add(deletion)
    return deleted


def segments_of(deletion: Deletion) -> Sequence[tuple[str, int]]:
    """Return the receivers and numbers of the segments in which frames of a deletion lie."""
    return sorted({(frame.receiver, frame.segment) for frame in deletion.frames})


def release_reserve(folder: Path) -> bool:
    """Give the reserved space of a log back to a full disk. Return False if there is none."""
    try:
        (folder / RESERVE).unlink()
    except FileNotFoundError:
        return False
    return True


def in_order(history: Iterable[TakenRange | RoutedRevisions]) -> list[TakenRange | RoutedRevisions]:
    """Return a history without those ranges, or parts of them, that were taken again later.

    The frames of a receiver are taken one after another. So whatever begins behind the start of a later range was
    taken again.
    """
    kept: dict[int, TakenRange | RoutedRevisions] = {}
    of_receiver: dict[str, list[tuple[int, TakenRange]]] = {}
    for number, one in enumerate(history):
        kept[number] = one
        if not isinstance(one, TakenRange):
            continue
        earlier = of_receiver.setdefault(one.receiver, [])
        start = (one.segment, one.start)
        while earlier and (earlier[-1][1].segment, earlier[-1][1].start) >= start:
            del kept[earlier.pop()[0]]
        if earlier:
            at, last = earlier[-1]
            if last.segment == one.segment and last.end > one.start:
                shorter = TakenRange(last.receiver, last.segment, last.start, one.start)
                kept[at], earlier[-1] = shorter, (at, shorter)
        earlier.append((number, one))
    return [kept[number] for number in sorted(kept)]


def _history(logged: LoggedFrame) -> TakenRange | RoutedRevisions:
    if logged.kind is FrameKind.TAKEN:
        return TakenRange(**logged.meta)
    return RoutedRevisions(tuple((study, revision) for study, revision in json.loads(logged.body)))


def _is_behind(taken: TakenRange, reached: Mapping[str, tuple[int, int]]) -> bool:
    """Return True if a range ends behind the place up to which its journal is indexed."""
    return (taken.segment, taken.end) > reached.get(taken.receiver, (0, 0))


def _deletion(logged: LoggedFrame) -> Deletion:
    meta, body = logged.meta, json.loads(logged.body)
    return Deletion(
        key=meta["key"],
        study_instance_uid=meta["study"],
        reason=meta["reason"],
        at=datetime.fromisoformat(meta["at"]),
        instances=meta["instances"],
        frames=tuple(DeletedFrame(*frame) for frame in body["frames"]),
        files=tuple(body["files"]),
    )


def _tell_damaged(number: int, frame: Frame) -> None:
    extra = {"action": "index_log_damaged", "segment": number}
    log.error("A frame (%s) of the log of the index role is damaged and cannot be read", frame.kind.name, extra=extra)
