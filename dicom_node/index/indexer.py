"""The `index` role: it gives rows to the instances that receivers have written into their journals.

What lies in a journal stays there. A row says where; the place up to which a journal is filed is a row too, written in
the same transaction. So the process may be killed at any moment, and goes on where the database stands.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.runtime.logs import fields, unexpected
from storage.errors import IndexLost, Retriable, Unfileable
from storage.log import journal
from storage.log.deletion.deletions import Deletions
from storage.log.deletion.records import TakenRange
from storage.log.filing.aside import Aside
from storage.log.filing.associations import AssociationEnded, AssociationOpened
from storage.log.filing.batch import Filing
from storage.log.filing.reached import Reached, read_reached
from storage.log.filing.release01 import OldFiles
from storage.log.instances import InstanceStore
from storage.log.own_results import OwnResults
from storage.log.segments.frames import Frame, FrameKind, instance_of
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments, address_of
from storage.machine import is_trouble_of_the_machine
from storage.records.evidence import AssociationEnd
from storage.records.instances import Stored
from storage.records.problems import ProblemKind
from storage.tables.database.connection import Database
from storage.tables.problems import Problems

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between looks for new frames
LONGEST_PAUSE_SECONDS = 10.0  # between retries while the database or the disk refuses
BATCH = 256  # frames in one transaction


@dataclass
class _Place:
    """The place in a journal up to which everything is filed. `noted` is what the database says of it."""

    receiver: str
    segment: int = 0
    offset: int = 0
    life: int = 0  # the segment in which the receiver was last started
    noted: Reached | None = None

    @property
    def reached(self) -> Reached:
        return Reached(self.receiver, self.segment, self.offset, self.life)


class Indexer:
    """The filing of all journals below `journals`. Only one may run for a data directory.

    `claim` makes sure that the database belongs to the data directory, and raises Permanent if it does not.
    """

    def __init__(
        self,
        journals: Path,
        instances: InstanceStore,
        old_files: OldFiles,
        database: Database,
        deletions: Deletions,
        wait: Callable[[threading.Event, float], bool] = lambda stop, seconds: stop.wait(seconds),
        claim: Callable[[], object] = lambda: None,
    ) -> None:
        self._journals = journals
        self._segments = Segments(journals, deletions.deleted.of)
        self._instances = instances
        self._old_files = old_files
        self._database = database
        self._deletions = deletions
        self._log = deletions.index_log
        self._own_results = OwnResults(database, deletions.index_log)
        self._problems = Problems(database)
        self._claim = claim
        self._wait = wait
        self._places: dict[str, _Place] = {}
        self._prepared = False

    def run(self, stop: threading.Event) -> None:
        """File until `stop` is set. Neither failures of the database or the disk nor damaged frames end the loop."""
        pause = LOOK_SECONDS
        while not self._wait(stop, pause):
            try:
                self.advance(stop)
                self.carry_out_deletions()
                pause = LOOK_SECONDS
            except IndexLost:
                extra = fields("index_lost")
                log.error("The database was removed or replaced; the index is rebuilt from the journals", extra=extra)
            except (Retriable, OSError) as error:
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                extra = fields("filing_postponed")
                log.warning(
                    "Filing of received instances is put off for %.1f s: %s", pause, _reason(error), extra=extra
                )

        self.close()

    def close(self) -> None:
        """End the log of this role. The next call of `prepare` goes on with it."""
        self._log.close()
        self._prepared = False

    def prepare(self) -> None:
        """Bring the database's schema to this version, and learn up to where the journals are filed.

        An empty index first gets the rows of what release 0.1 filed. Raises Permanent if the database belongs to
        another data directory.
        """
        self._database.upgrade()
        self._claim()
        self._log.open()
        self._deletions.prepare()
        self._own_results.prepare()
        if self._instances.is_empty():
            self._old_files.reindex()
            self._old_files.note_aside()
        noted = read_reached(self._database)
        self._places = {one.receiver: _Place(**vars(one), noted=one) for one in noted}

    def start_over(self) -> None:
        """File everything from the beginning at the next call of `advance`: rows that are lost come back."""
        self._ensure_prepared()
        self._old_files.reindex()
        for place in self._places.values():
            place.segment = place.offset = 0

    def advance(self, stop: threading.Event | None = None) -> int:
        """File everything in the journals, one segment of each journal in turn; return the number of instances.

        A failure in one journal does not stop the others; it is raised at the end of the round, as Retriable or
        OSError. The next call continues at the same place. Raises IndexLost if the database is another one than before,
        and the next call goes on where that one stands.
        """
        self._ensure_prepared()
        self._deletions.remove_pending_rows()
        try:
            return self._advance_all(stop)
        except IndexLost:
            self._prepared = False
            raise

    def carry_out_deletions(self) -> None:
        """Delete what is asked for. Everything acknowledged before that must be filed. Raises Retriable and OSError."""
        self._own_results.advance()
        self._deletions.advance()

    def _ensure_prepared(self) -> None:
        if not self._prepared:
            self.prepare()
            self._prepared = True

    def _advance_all(self, stop: threading.Event | None) -> int:
        filed = 0
        # A time, by both clocks, and the last segments that it can concern.
        mark: tuple[tuple[datetime, float], dict[str, int]] | None = None
        while stop is None or not stop.is_set():
            began = datetime.now(UTC), time.monotonic()
            receivers = self._segments.receivers()
            mark = mark or (began, {receiver: self._segments.last(receiver) for receiver in receivers})
            more, trouble = False, None
            for receiver in receivers:
                try:
                    found, goes_on = self._advance(self._places.setdefault(receiver, _Place(receiver)))
                    filed += found
                    more = more or goes_on
                except IndexLost:
                    raise
                except (Retriable, OSError) as error:
                    trouble = error
            if trouble is not None:
                raise trouble
            if not more:
                journal.mark_filed(self._journals, *began)
                break
            if all(self._places[receiver].segment > last for receiver, last in mark[1].items()):
                journal.mark_filed(self._journals, *mark[0])  # the mark moves even under a load that never ends
                mark = None
        return filed

    # -- one journal ---------------------------------------------------------------------------------------------------

    def _advance(self, place: _Place) -> tuple[int, bool]:
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
            filed = self._file(reader, place)
            while (beginning := reader.next_frame(place.offset)) is not None:
                if beginning > place.offset:
                    self._pass_damaged(reader, place, beginning)
                filed += self._file(reader, place)
            if following is None and written:
                return filed, False
            if reader.size > place.offset:
                self._note_tail(reader, place)
        if following is not None:
            self._finish(place, following)
        return filed, following is not None

    def _file(self, reader: SegmentReader, place: _Place) -> int:
        """File everything from `place` to the end of the segment; the place moves with each transaction."""
        try:
            return self._file_batches(reader, place)
        except (Retriable, OSError):
            raise
        except Exception as error:
            log.error(
                "A batch cannot be filed (%s); its frames are filed one by one",
                unexpected(error),
                extra=fields("batch_failed"),
            )
            return self._file_singly(reader, place)

    def _file_batches(self, reader: SegmentReader, place: _Place) -> int:
        filed = 0
        filing = self._instances.filing()
        end = place.offset
        for frame in reader.frames(place.offset):
            if frame.kind is FrameKind.STARTED:
                filed += self._commit(reader, filing, place, end)
            self._apply(reader, frame, filing, place)
            end = frame.end
            if len(filing) >= BATCH:
                filed += self._commit(reader, filing, place, end)
        return filed + self._commit(reader, filing, place, end)

    def _file_singly(self, reader: SegmentReader, place: _Place) -> int:
        """File each frame in a transaction of its own; keep a frame aside that cannot be filed, and go on."""
        filed = 0
        for frame in reader.frames(place.offset):
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

    def _commit(self, reader: SegmentReader, filing: Filing, place: _Place, end: int) -> int:
        if end == place.offset and not len(filing):
            return 0
        if len(filing):
            # The bytes that were read may not be flushed yet, and a row must not outlive its bytes.
            reader.sync()
        place_then = replace(place.reached, offset=end)
        filing.reached(place_then, place.noted)
        self._log.take(TakenRange(place.receiver, place.segment, place.offset, end))
        outcomes = filing.commit()
        place.offset, place.noted = end, place_then
        conflicts = sum(outcome is Stored.CONFLICT for outcome in outcomes)
        if conflicts:
            extra = fields("instance_quarantined")
            log.warning(
                "%d instances contradict filed ones with the same UID and are in quarantine", conflicts, extra=extra
            )
        return len(outcomes)

    def _apply(self, reader: SegmentReader, frame: Frame, filing: Filing, place: _Place) -> None:
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

    def _file_instance(self, frame: Frame, filing: Filing, place: _Place) -> None:
        address = address_of(frame, place.receiver, place.segment)
        try:
            filing.instance(instance_of(frame.meta), address, frame.kept)
        except Unfileable as error:
            self._keep_aside(frame, filing, place, str(error))
        except OSError as error:
            if is_trouble_of_the_machine(error):
                raise
            self._keep_aside(frame, filing, place, _reason(error))

    def _keep_aside(self, frame: Frame, filing: Filing, place: _Place, reason: str) -> None:
        """Keep a frame as a part of no study. It stays where it is, because its instance was acknowledged."""
        meta = frame.meta
        address = address_of(frame, place.receiver, place.segment)
        sop, series, study = (str(meta.get(f"{level}_instance_uid", "")) for level in ("sop", "series", "study"))
        at = datetime.fromisoformat(meta["received_at"]) if "received_at" in meta else datetime.now(UTC)
        filing.aside(Aside(str(address), address, sop, series, study, "", at, reason))
        extra = fields("instance_unfiled")
        log.error("A frame of a journal cannot be filed (%s); it is kept as %s", reason, address, extra=extra)

    # -- the end of a segment ------------------------------------------------------------------------------------------

    def _pass_damaged(self, reader: SegmentReader, place: _Place, end: int) -> None:
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

    def _note_tail(self, reader: SegmentReader, place: _Place) -> None:
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

    def _finish(self, place: _Place, following: int) -> None:
        """Go on with the next segment."""
        started = self._segments.begins_a_life(place.receiver, following)
        if started:
            # Whatever the life before was still writing has no frame, and never gets one.
            self._segments.remove_stray_files(place.receiver, range(place.life, following))
            place.life = following
        place.segment = following
        self._move(place, 0)

    def _move(self, place: _Place, offset: int) -> None:
        filing = self._instances.filing()
        reached = replace(place.reached, offset=offset)
        filing.reached(reached, place.noted)
        filing.commit()
        place.offset, place.noted = offset, reached


def _reason(error: Exception) -> str:
    """Describe an error without the file names that an OSError holds."""
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else str(error)
