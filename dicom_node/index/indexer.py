"""The `index` role: it files the instances that receivers have written into their journals, and gives them rows.

The process may be killed at any moment. Its next start reads the journals from their beginning, which is safe because
filing is idempotent. A segment is removed once everything in it is filed, indexed and flushed.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.runtime.logs import fields, unexpected
from storage.errors import DamagedFrame, IndexLost, Retriable, Unfileable
from storage.log import journal
from storage.log.associations import AssociationEnded, AssociationOpened
from storage.log.files import FileSystem
from storage.log.filing import Filing
from storage.log.instances import InstanceStore
from storage.log.segments.frames import Frame, FrameKind, instance_of
from storage.log.segments.large import remove_stray_files
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from storage.machine import is_trouble_of_the_machine
from storage.records.evidence import AssociationEnd
from storage.records.instances import UID, Stored
from storage.records.problems import ProblemKind
from storage.tables.database.connection import Database
from storage.tables.problems import Problems

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between looks for new frames
LONGEST_PAUSE_SECONDS = 10.0  # between retries while the database or the disk refuses
BATCH = 256  # frames in one transaction
UNFILED = "unfiled"


@dataclass
class _Place:
    """The place in a journal up to which everything is filed and indexed."""

    folder: Path
    segment: int = 0
    offset: int = 0
    large: list[Path] = field(default_factory=list)  # files of large instances in this segment

    @property
    def receiver(self) -> str:
        return self.folder.name


class Indexer:
    """The filing of all journals below `journals`. Only one may run for a data directory.

    `claim` makes sure that the database belongs to the data directory, and raises Permanent if it does not.
    """

    def __init__(
        self,
        journals: Path,
        instances: InstanceStore,
        database: Database,
        file_systems: Sequence[FileSystem],
        wait: Callable[[threading.Event, float], bool] = lambda stop, seconds: stop.wait(seconds),
        claim: Callable[[], object] = lambda: None,
    ) -> None:
        self._journals = journals
        self._segments = Segments(journals)
        self._instances = instances
        self._database = database
        self._problems = Problems(database)
        self._file_systems = file_systems
        self._claim = claim
        self._wait = wait
        self._places: dict[Path, _Place] = {}

    def run(self, stop: threading.Event) -> None:
        """File until `stop` is set. Neither failures of the database or the disk nor damaged frames end the loop."""
        pause = LOOK_SECONDS
        prepared = False
        while not self._wait(stop, pause):
            try:
                if not prepared:
                    self.prepare()
                    prepared = True
                self.advance(stop)
                pause = LOOK_SECONDS
            except IndexLost:
                extra = fields("index_lost")
                log.error("The database has lost its tables; the index will be rebuilt from the files", extra=extra)
                prepared = False
            except (Retriable, OSError) as error:
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                extra = fields("filing_postponed")
                log.warning(
                    "Filing of received instances is put off for %.1f s: %s", pause, _reason(error), extra=extra
                )

    def prepare(self) -> None:
        """Bring the database's schema to this version, and rebuild the index from the files if it is empty.

        Raises Permanent if the database belongs to another data directory.
        """
        self._database.upgrade()
        self._claim()
        if self._instances.is_empty():
            self.rebuild()

    def rebuild(self) -> None:
        """Give rows to all files that lack them.

        A crash may have left partial files, which must not be taken for instances. So every file whose instance a
        journal still holds is mended from the journal first.
        """
        self._places.clear()
        filing = self._instances.filing()
        for folder in self._folders():
            for number in self._segments.numbers(folder.name):
                with self._segments.open(folder.name, number) as reader:
                    for frame in reader.all_frames():
                        with suppress(Unfileable, DamagedFrame):
                            content = self._content(reader, frame)
                            if content is not None:
                                filing.mend(instance_of(frame.meta), content)
        self._instances.reindex()
        self._instances.note_all_aside(self._journals.parent / UNFILED)

    def advance(self, stop: threading.Event | None = None) -> int:
        """File everything in the journals, one segment of each journal in turn; return the number of instances.

        A failure in one journal does not stop the others; it is raised at the end of the round, as Retriable or
        OSError. The next call continues at the same place.
        """
        filed = 0
        # A time, by both clocks, and the last segments that it can concern.
        mark: tuple[tuple[datetime, float], dict[Path, int]] | None = None
        while stop is None or not stop.is_set():
            began = datetime.now(UTC), time.monotonic()
            mark = mark or (began, {folder: self._last_segment(folder) for folder in self._folders()})
            more, trouble = False, None
            for folder in self._folders():
                try:
                    found, goes_on = self._advance(self._places.setdefault(folder, _Place(folder)))
                    filed += found
                    more = more or goes_on
                except (Retriable, OSError) as error:
                    trouble = error
            if trouble is not None:
                raise trouble
            if not more:
                journal.mark_filed(self._journals, *began)
                break
            if all(self._places[folder].segment > last for folder, last in mark[1].items()):
                journal.mark_filed(self._journals, *mark[0])  # the mark moves even under a load that never ends
                mark = None
        return filed

    def _folders(self) -> list[Path]:
        return [self._journals / receiver for receiver in self._segments.receivers()]

    def _last_segment(self, folder: Path) -> int:
        return max(self._segments.numbers(folder.name), default=-1)

    # -- one journal ---------------------------------------------------------------------------------------------------

    def _advance(self, place: _Place) -> tuple[int, bool]:
        """File one segment; return the number of instances, and True if another segment follows."""
        # Listing first is essential: a receiver that starts after it begins a segment that is not in the list.
        numbers = [number for number in self._segments.numbers(place.receiver) if number >= place.segment]
        written = journal.is_written(place.folder)
        if not numbers:
            return 0, False
        if numbers[0] != place.segment:
            place.segment, place.offset, place.large = numbers[0], 0, []
        following = numbers[1] if len(numbers) > 1 else None
        with self._segments.open(place.receiver, place.segment) as reader:
            place.offset = max(place.offset, reader.first)
            filed = self._file(reader, place)
            while (beginning := reader.next_frame(place.offset)) is not None:
                if beginning > place.offset:
                    self._keep_damaged(reader, place, beginning)
                filed += self._file(reader, place)
            if following is None and written:
                return filed, False
            if reader.size > place.offset:
                self._note_tail(reader, place)
        self._retire(place, following)
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
        large: list[Path] = []
        for frame in reader.frames(place.offset):
            if frame.kind is FrameKind.STARTED:
                filed += self._commit(reader, filing, place, end, large)
            try:
                self._apply(reader, frame, filing, place, large)
            except DamagedFrame:
                filed += self._commit(reader, filing, place, end, large)
                self._keep_damaged(reader, place, frame.end)
            end = frame.end
            if len(filing) >= BATCH:
                filed += self._commit(reader, filing, place, end, large)
        return filed + self._commit(reader, filing, place, end, large)

    def _file_singly(self, reader: SegmentReader, place: _Place) -> int:
        """File each frame in a transaction of its own; keep a frame that cannot be filed and go on."""
        filed = 0
        for frame in reader.frames(place.offset):
            filing = self._instances.filing()
            large: list[Path] = []
            try:
                self._apply(reader, frame, filing, place, large)
                filed += self._commit(reader, filing, place, frame.end, large)
            except (Retriable, OSError):
                raise
            except DamagedFrame:
                self._keep_damaged(reader, place, frame.end)
            except Exception as error:
                self._keep_unfiled(reader, frame, place, unexpected(error))
                place.offset = frame.end
        return filed

    def _commit(self, reader: SegmentReader, filing: Filing, place: _Place, end: int, large: list[Path]) -> int:
        outcomes: list[Stored] = []
        if len(filing):
            # The bytes that were read may not be flushed yet, and a row must not outlive its bytes.
            reader.sync()
            outcomes = filing.commit()
        place.offset = end
        place.large.extend(large)
        large.clear()
        conflicts = sum(outcome is Stored.CONFLICT for outcome in outcomes)
        if conflicts:
            extra = fields("instance_quarantined")
            log.warning(
                "%d instances contradict filed ones with the same UID and are in quarantine", conflicts, extra=extra
            )
        return len(outcomes)

    def _apply(self, reader: SegmentReader, frame: Frame, filing: Filing, place: _Place, large: list[Path]) -> None:
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
            case FrameKind.INSTANCE | FrameKind.LARGE_INSTANCE:
                content = self._content(reader, frame)
                if content is None:
                    extra = fields("instance_skipped", sop_instance=meta["sop_instance_uid"])
                    log.warning("A large instance that was never acknowledged has no file and is skipped", extra=extra)
                    return
                self._file_instance(reader, frame, content, filing, place)
                if isinstance(content, Path):
                    large.append(content)
            case FrameKind.SEALED:
                pass  # a table without its footer, which a crash left
            case FrameKind.UNKNOWN:
                self._keep_unfiled(reader, frame, place, "it was written by another version")

    def _tell_refused(self, meta: dict[str, Any]) -> None:
        peer = meta["calling_ae_title"]
        for reason in meta["counts"]:
            text = f"instances from {peer} were refused: {reason}"
            self._problems.open(ProblemKind.REFUSED, f"{peer}: {reason}", text)

    def _content(self, reader: SegmentReader, frame: Frame) -> bytes | Path | None:
        """Return the Part 10 file of an instance, or None for other frames and for a large instance without its file.

        The receiver removes the file of a large instance when the flush of its frame fails. Such an instance was never
        acknowledged. Raises DamagedFrame.
        """
        if frame.kind is FrameKind.INSTANCE:
            return reader.body(frame)
        if frame.kind is not FrameKind.LARGE_INSTANCE:
            return None
        path = reader.path.parent / str(frame.meta["file"])
        return path if path.is_file() and path.stat().st_size == frame.meta["size"] else None

    def _file_instance(
        self, reader: SegmentReader, frame: Frame, content: bytes | Path, filing: Filing, place: _Place
    ) -> None:
        try:
            filing.instance(instance_of(frame.meta), content)
        except Unfileable as error:
            self._keep_unfiled(reader, frame, place, str(error))
        except OSError as error:
            if is_trouble_of_the_machine(error):
                raise
            # The folder may belong to another user, for example. That must not hold up the other instances.
            self._keep_unfiled(reader, frame, place, _reason(error))

    def _keep_unfiled(self, reader: SegmentReader, frame: Frame, place: _Place, reason: str) -> None:
        """Keep the bytes of an instance that cannot be filed, because the instance was acknowledged."""
        folder = self._journals.parent / UNFILED
        folder.mkdir(exist_ok=True)
        content = self._content(reader, frame) if frame.meta.get("sop_instance_uid") else None
        body = content.read_bytes() if isinstance(content, Path) else reader.body(frame)
        path = folder / f"{place.receiver}-{place.segment}-{hashlib.sha256(body).hexdigest()[:16]}.dcm"
        path.write_bytes(body)  # also over what a full disk left of it
        meta = frame.meta
        if meta.get("sop_instance_uid"):
            at = datetime.fromisoformat(meta["received_at"]) if "received_at" in meta else datetime.now(UTC)
            self._instances.note_aside(path, str(meta["sop_instance_uid"]), at)
        study = str(meta.get("study_instance_uid", ""))
        text = f"An acknowledged frame of a journal cannot be filed ({reason}); it is kept as {path.name}"
        self._problems.open(ProblemKind.UNFILED, path.name, text, study if UID.fullmatch(study) else "")
        extra = fields("instance_unfiled")
        log.error("A frame of a journal cannot be filed (%s); it is kept as %s", reason, path.name, extra=extra)

    # -- the end of a segment ------------------------------------------------------------------------------------------

    def _keep_damaged(self, reader: SegmentReader, place: _Place, end: int) -> None:
        """Keep a copy of the damaged bytes up to `end`, and move the place there. What follows is still filed."""
        kept = reader.path.with_name(f"{reader.path.stem}-{place.offset}.damaged")
        kept.write_bytes(reader.between(place.offset, end))  # also over what a full disk left of it
        text = f"A journal of {place.receiver} is damaged; the bytes that are no frame are kept as {kept.name}"
        self._problems.open(ProblemKind.UNFILED, f"{place.receiver}/{kept.name}", text)
        log.error(
            "A journal is damaged: %d bytes of %s are no frame; they are kept as %s",
            end - place.offset,
            reader.path.name,
            kept.name,
            extra=fields("journal_damaged", journal=place.receiver),
        )
        place.offset = end

    def _note_tail(self, reader: SegmentReader, place: _Place) -> None:
        """Log the bytes behind the last frame of a finished segment; keep a copy if they are damaged."""
        left = reader.size - place.offset
        if reader.is_cut_off(place.offset):
            log.warning(
                "A journal ends in %d bytes that were never acknowledged",
                left,
                extra=fields("journal_cut_off", journal=place.receiver),
            )
        else:
            self._keep_damaged(reader, place, reader.size)

    def _retire(self, place: _Place, following: int | None) -> None:
        """Flush the files of a segment, then remove it."""
        try:
            for file_system in self._file_systems:
                file_system.flush()
        except OSError:
            # The kernel reports a failed write once and for all files together, so the whole segment is compared with
            # the disk again.
            place.offset, place.large = 0, []
            raise
        for path in place.large:
            path.unlink(missing_ok=True)
        self._segments.delete(place.receiver, place.segment)
        remove_stray_files(place.folder, place.segment, following)
        place.segment, place.offset, place.large = place.segment + 1, 0, []


def _reason(error: Exception) -> str:
    """Describe an error without the file names that an OSError holds."""
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else str(error)
