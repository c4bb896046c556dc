"""The filing of one journal: its frames become rows, batch by batch, up to where its receiver writes."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable, Unfileable
from storage.log import journal
from storage.log.deletion.records import TakenRange
from storage.log.filing.aside import Aside
from storage.log.filing.associations import AssociationEnded, AssociationOpened
from storage.log.filing.batch import Filing
from storage.log.filing.reached import Reached
from storage.log.index_log import IndexLog
from storage.log.instances import InstanceStore
from storage.log.segments.frames import Frame, FrameKind, instance_of
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments, address_of
from storage.machine import is_trouble_of_the_machine
from storage.records.evidence import AssociationEnd
from storage.records.instances import Stored
from storage.records.problems import ProblemKind
from storage.tables.problems import Problems

log = logging.getLogger(__name__)

BATCH = 256  # frames in one transaction


@dataclass
class Place:
    """The place in a journal up to which everything is filed. `noted` is what the database says of it.

    `taken` are the segment and the offset up to which the log of the index role has what was filed.
    """

    receiver: str
    segment: int = 0
    offset: int = 0
    life: int = 0  # the segment in which the receiver was last started
    noted: Reached | None = None
    taken: tuple[int, int] = (0, 0)

    @classmethod
    def at(cls, noted: Reached) -> "Place":
        return cls(**vars(noted), noted=noted, taken=(noted.segment, noted.offset))

    @property
    def reached(self) -> Reached:
        return Reached(self.receiver, self.segment, self.offset, self.life)


class JournalFiling:
    """The filing of the journals below `journals`, each from its place on."""

    def __init__(
        self, journals: Path, segments: Segments, instances: InstanceStore, index_log: IndexLog, problems: Problems
    ) -> None:
        self._journals = journals
        self._segments = segments
        self._instances = instances
        self._log = index_log
        self._problems = problems
        self._until: TakenRange | None = None  # while frames are filed again in the order of before

    def replay(self, place: Place, until: TakenRange) -> int:
        """File up to the end of a range that was filed before; return the number of instances.

        Nothing is noted in the log of the index role, which has the range already.
        """
        filed = 0
        self._until = until
        place.taken = max(place.taken, (until.segment, until.end))
        try:
            while (before := (place.segment, place.offset)) < (until.segment, until.end):
                filed += self.advance(place)[0]
                if (place.segment, place.offset) == before:  # nothing of it is left
                    break
        finally:
            self._until = None
        return filed

    def advance(self, place: Place) -> tuple[int, bool]:
        """File one segment; return the number of instances, and True if another segment follows."""
        # Listing first is essential: a receiver that starts after it begins a segment that is not in the list.
        numbers = self._segments.following(place.receiver, place.segment)
        written = journal.is_written(self._journals / place.receiver)
        if not numbers:
            return 0, False
        if numbers[0] != place.segment:
            place.segment, place.offset = numbers[0], 0
        following = numbers[1] if len(numbers) > 1 else None
        with self._segments.open(place.receiver, place.segment) as reader:
            place.offset = max(place.offset, reader.first)
            limit = self._limit(place)
            filed = self._file(reader, place, limit)
            while (beginning := reader.next_frame(place.offset)) is not None and (limit is None or beginning < limit):
                if beginning > place.offset:
                    self._pass_damaged(reader, place, beginning)
                filed += self._file(reader, place, limit)
            if limit is not None or (following is None and written):
                return filed, False
            if reader.size > place.offset:
                self._note_tail(reader, place)
        if following is not None:
            self._finish(place, following)
        return filed, following is not None

    def _limit(self, place: Place) -> int | None:
        """Return the offset up to which frames of the segment are filed now; None for all."""
        return self._until.end if self._until is not None and self._until.segment == place.segment else None

    def _file(self, reader: SegmentReader, place: Place, limit: int | None) -> int:
        """File everything from `place` to the end of the segment; the place moves with each transaction."""
        try:
            return self._file_batches(reader, place, limit)
        except (Retriable, OSError):
            raise
        except Exception as error:
            log.error(
                "A batch cannot be filed (%s); its frames are filed one by one",
                unexpected(error),
                extra=fields("batch_failed"),
            )
            return self._file_singly(reader, place, limit)

    def _file_batches(self, reader: SegmentReader, place: Place, limit: int | None) -> int:
        filed = 0
        filing = self._instances.filing()
        end = place.offset
        for frame in _frames(reader, place.offset, limit):
            if frame.kind is FrameKind.STARTED:
                filed += self._commit(reader, filing, place, end)
            self._apply(reader, frame, filing, place)
            end = frame.end
            if len(filing) >= BATCH:
                filed += self._commit(reader, filing, place, end)
        return filed + self._commit(reader, filing, place, end)

    def _file_singly(self, reader: SegmentReader, place: Place, limit: int | None) -> int:
        """File each frame in a transaction of its own; keep a frame aside that cannot be filed, and go on."""
        filed = 0
        for frame in _frames(reader, place.offset, limit):
            filing = self._instances.filing()
            try:
                self._apply(reader, frame, filing, place)
                filed += self._commit(reader, filing, place, frame.end)
            except (Retriable, OSError):
                raise
            except Exception as error:
                aside = self._instances.filing()
                self._keep_aside(frame, aside, place, unexpected(error))
                self._commit(reader, aside, place, frame.end)
        return filed

    def _commit(self, reader: SegmentReader, filing: Filing, place: Place, end: int) -> int:
        if end == place.offset and not len(filing):
            return 0
        if len(filing):
            # The bytes that were read may not be flushed yet, and a row must not outlive its bytes.
            reader.sync()
        place_then = replace(place.reached, offset=end)
        filing.reached(place_then, place.noted)
        if (place.segment, end) > place.taken:  # what is filed again keeps its place in the order
            self._log.take(TakenRange(place.receiver, place.segment, place.offset, end))
        outcomes = filing.commit()
        place.offset, place.noted, place.taken = end, place_then, max(place.taken, (place.segment, end))
        conflicts = sum(outcome is Stored.CONFLICT for outcome in outcomes)
        if conflicts:
            extra = fields("instance_quarantined")
            log.warning(
                "%d instances contradict filed ones with the same UID and are in quarantine", conflicts, extra=extra
            )
        return len(outcomes)

    def _apply(self, reader: SegmentReader, frame: Frame, filing: Filing, place: Place) -> None:
        meta = frame.meta
        match frame.kind:
            case FrameKind.STARTED:
                self._instances.abort_open_associations(place.receiver, datetime.fromisoformat(meta["at"]))
            case FrameKind.ASSOCIATION:
                filing.opened(
                    AssociationOpened(
                        association=meta["association"],
                        calling_ae_title=meta["calling_ae_title"],
                        called_ae_title=meta["called_ae_title"],
                        peer_host=meta["peer_host"],
                        receiver=place.receiver,
                        at=datetime.fromisoformat(meta["at"]),
                    )
                )
            case FrameKind.ASSOCIATION_ENDED:
                end = AssociationEnd(meta["end"])
                filing.ended(AssociationEnded(meta["association"], end, datetime.fromisoformat(meta["at"])))
            case FrameKind.REFUSED:
                self._tell_refused(meta)
            case FrameKind.INSTANCE:
                self._file_instance(frame, filing, place)
            case FrameKind.LARGE_INSTANCE:  # the receiver removes its file when the flush of the frame fails
                if self._segments.has_file(place.receiver, frame):
                    self._file_instance(frame, filing, place)
                    return
                extra = fields("instance_skipped", sop_instance=meta["sop_instance_uid"])
                log.warning("A large instance that was never acknowledged has no file and is skipped", extra=extra)
            case FrameKind.SEALED | FrameKind.GONE:
                pass  # a table without its footer, which a crash left; or what was deleted
            case FrameKind.UNKNOWN:
                self._keep_aside(frame, filing, place, "it was written by another version")

    def _tell_refused(self, meta: dict[str, Any]) -> None:
        peer = meta["calling_ae_title"]
        for reason in meta["counts"]:
            text = f"instances from {peer} were refused: {reason}"
            self._problems.open(ProblemKind.REFUSED, f"{peer}: {reason}", text)

    def _file_instance(self, frame: Frame, filing: Filing, place: Place) -> None:
        address = address_of(frame, place.receiver, place.segment)
        try:
            filing.instance(instance_of(frame.meta), address, frame.kept)
        except Unfileable as error:
            self._keep_aside(frame, filing, place, str(error))
        except OSError as error:
            if is_trouble_of_the_machine(error):
                raise
            self._keep_aside(frame, filing, place, reason_of(error))

    def _keep_aside(self, frame: Frame, filing: Filing, place: Place, reason: str) -> None:
        """Keep a frame as a part of no study. It stays where it is, because its instance was acknowledged."""
        meta = frame.meta
        address = address_of(frame, place.receiver, place.segment)
        sop, series, study = (str(meta.get(f"{level}_instance_uid", "")) for level in ("sop", "series", "study"))
        at = datetime.fromisoformat(meta["received_at"]) if "received_at" in meta else datetime.now(UTC)
        filing.aside(Aside(str(address), address, sop, series, study, "", at, reason))
        extra = fields("instance_unfiled")
        log.error("A frame of a journal cannot be filed (%s); it is kept as %s", reason, address, extra=extra)

    # -- the end of a segment ------------------------------------------------------------------------------------------

    def _pass_damaged(self, reader: SegmentReader, place: Place, end: int) -> None:
        """Tell of damaged bytes up to `end`, which stay where they are, and go on behind them."""
        where = f"{place.receiver}/{reader.path.stem}:{place.offset}"
        text = f"A journal of {place.receiver} is damaged: {end - place.offset} bytes at {where} are no frame"
        self._problems.open(ProblemKind.UNFILED, where, text)
        log.error(
            "A journal is damaged: %d bytes of %s at %d are no frame; what follows is filed",
            end - place.offset,
            reader.path.name,
            place.offset,
            extra=fields("journal_damaged", journal=place.receiver),
        )
        self._move(place, end)

    def _note_tail(self, reader: SegmentReader, place: Place) -> None:
        """Log the bytes behind the last frame of a finished segment; tell of them if they are damaged."""
        left = reader.size - place.offset
        if reader.is_cut_off(place.offset):
            log.warning(
                "A journal ends in %d bytes that were never acknowledged",
                left,
                extra=fields("journal_cut_off", journal=place.receiver),
            )
            self._move(place, reader.size)
        else:
            self._pass_damaged(reader, place, reader.size)

    def _finish(self, place: Place, following: int) -> None:
        """Go on with the next segment."""
        started = self._segments.begins_a_life(place.receiver, following)
        if started:
            # Whatever the life before was still writing has no frame, and never gets one.
            self._segments.remove_stray_files(place.receiver, range(place.life, following))
            place.life = following
        place.segment = following
        self._move(place, 0)

    def _move(self, place: Place, offset: int) -> None:
        filing = self._instances.filing()
        reached = replace(place.reached, offset=offset)
        filing.reached(reached, place.noted)
        filing.commit()
        place.offset, place.noted = offset, reached


def _frames(reader: SegmentReader, start: int, limit: int | None) -> Iterator[Frame]:
    for frame in reader.frames(start):
        if limit is not None and frame.offset >= limit:
            return
        yield frame


def reason_of(error: Exception) -> str:
    """Describe an error without the file names that an OSError holds."""
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else str(error)
