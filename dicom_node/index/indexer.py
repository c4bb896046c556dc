"""The `index` role: files what receivers have written into their journals, and gives it rows.

It may be killed at any moment and reads the journals again from their beginning: filing the same thing twice changes
nothing. A segment is removed once everything in it is filed, indexed and flushed.
"""

import errno
import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.runtime.logs import fields, unexpected
from storage.errors import IndexLost, Retriable, Unfileable
from storage.log import journal
from storage.log.files import FileSystem
from storage.log.filing import Ended, Filing, Opened
from storage.log.instances import InstanceStore
from storage.log.journal import Frame, Kind, SegmentReader, instance_of
from storage.records.evidence import AssociationEnd
from storage.records.instances import Stored
from storage.tables.database.connection import Database

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between looks for new frames
LONGEST_PAUSE_SECONDS = 10.0  # between tries while the database or the disk refuses
BATCH = 256  # frames in one transaction
UNFILED = "unfiled"
TROUBLE_OF_THE_DEVICE = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip


@dataclass
class _Place:
    """How far a journal is filed and indexed."""

    folder: Path
    segment: int = 0
    offset: int = 0
    large: list[Path] = field(default_factory=list)  # files that the frames of this segment name

    @property
    def receiver(self) -> str:
        return self.folder.name


class Indexer:
    """Files the journals below `journals`. Only one may run for a data directory."""

    def __init__(
        self,
        journals: Path,
        instances: InstanceStore,
        database: Database,
        file_systems: Sequence[FileSystem],
        wait: Callable[[threading.Event, float], bool] = lambda stop, seconds: stop.wait(seconds),
    ) -> None:
        self._journals = journals
        self._instances = instances
        self._database = database
        self._file_systems = file_systems
        self._wait = wait
        self._places: dict[Path, _Place] = {}

    def run(self, stop: threading.Event) -> None:
        """Files until `stop` is set. Nothing that the database, the disk or a frame brings about ends it."""
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
                log.error("The database lost its tables; the index is made anew from the files", extra=fields("index"))
                prepared = False
            except (Retriable, OSError) as error:
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                log.warning("Filing is put off for %.1f s: %s", pause, _why(error), extra=fields("index"))

    def prepare(self) -> None:
        """Makes an index that was lost anew from the files. One that is there lacks nothing that no journal holds."""
        self._database.upgrade()
        if self._instances.is_empty():
            self.rebuild()

    def rebuild(self) -> None:
        """Gives rows to all files that lack them. What a crash left in part must not be taken for an instance: where a
        journal still holds it, it is moved away first.
        """
        self._places.clear()
        filing = self._instances.filing()
        for folder in self._folders():
            for segment in journal.segments(folder):
                with SegmentReader(segment) as reader:
                    for frame in reader.frames(0):
                        content = self._content(frame, folder)
                        if content is not None:
                            with suppress(Unfileable):
                                filing.mend(instance_of(frame.meta), content)
        self._instances.reindex()

    def advance(self, stop: threading.Event | None = None) -> int:
        """Files all there is, a segment of each journal in turn; the number of instances.

        Trouble with one journal holds up no other. Raises Retriable or OSError, and then goes on where it was.
        """
        filed = 0
        while stop is None or not stop.is_set():
            began = datetime.now(UTC)
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
                journal.note_filed(self._journals, began)
                break
        return filed

    def _folders(self) -> list[Path]:
        return sorted(folder for folder in self._journals.glob("*") if folder.is_dir())

    # -- one journal ---------------------------------------------------------------------------------------------------

    def _advance(self, place: _Place) -> tuple[int, bool]:
        """Files what there is of one segment; the number of instances, and whether another segment follows."""
        # The writer is asked for after the listing: a receiver that begins now begins a segment that is not listed.
        numbers = [journal.number_of(path) for path in journal.segments(place.folder)]
        numbers = [number for number in numbers if number >= place.segment]
        written = journal.is_written(place.folder)
        if not numbers:
            return 0, False
        if numbers[0] != place.segment:
            place.segment, place.offset, place.large = numbers[0], 0, []
        following = numbers[1] if len(numbers) > 1 else None
        with SegmentReader(journal.path_of(place.folder, place.segment)) as reader:
            filed = self._file(reader, place)
            while (beginning := reader.next_frame(place.offset)) is not None:
                if beginning > place.offset:
                    self._keep_damaged(reader, place, beginning)
                    place.offset = beginning
                filed += self._file(reader, place)
            if following is None and written:
                return filed, False
            if reader.size > place.offset:
                self._note_tail(reader, place)
        self._retire(place, following)
        return filed, following is not None

    def _file(self, reader: SegmentReader, place: _Place) -> int:
        """Everything from `place` to the end of what is written; the place moves with each transaction."""
        try:
            return self._file_batches(reader, place)
        except (Retriable, OSError):
            raise
        except Exception as error:
            log.error(
                "A batch cannot be filed (%s); its frames are tried alone", unexpected(error), extra=fields("index")
            )
            return self._file_singly(reader, place)

    def _file_batches(self, reader: SegmentReader, place: _Place) -> int:
        filed = 0
        filing = self._instances.filing()
        end = place.offset
        large: list[Path] = []
        for frame in reader.frames(place.offset):
            if frame.kind is Kind.STARTED:
                filed += self._commit(reader, filing, place, end, large)
            self._apply(frame, filing, place, large)
            end = frame.end
            if len(filing) >= BATCH:
                filed += self._commit(reader, filing, place, end, large)
        return filed + self._commit(reader, filing, place, end, large)

    def _file_singly(self, reader: SegmentReader, place: _Place) -> int:
        """One frame in each transaction: one that nobody can file is kept, and holds up no other."""
        filed = 0
        for frame in reader.frames(place.offset):
            filing = self._instances.filing()
            large: list[Path] = []
            try:
                self._apply(frame, filing, place, large)
                filed += self._commit(reader, filing, place, frame.end, large)
            except (Retriable, OSError):
                raise
            except Exception as error:
                self._keep_unfiled(frame, place, unexpected(error))
                place.offset = frame.end
        return filed

    def _commit(self, reader: SegmentReader, filing: Filing, place: _Place, end: int, large: list[Path]) -> int:
        outcomes: list[Stored] = []
        if len(filing):
            # What was read may not be flushed yet, and a row must not outlive its bytes.
            reader.sync()
            outcomes = filing.commit()
        place.offset = end
        place.large.extend(large)
        large.clear()
        conflicts = sum(outcome is Stored.CONFLICT for outcome in outcomes)
        if conflicts:
            log.warning("%d instances contradict others and are in quarantine", conflicts, extra=fields("index"))
        return len(outcomes)

    def _apply(self, frame: Frame, filing: Filing, place: _Place, large: list[Path]) -> None:
        meta = frame.meta
        match frame.kind:
            case Kind.STARTED:
                self._instances.abort_open_associations(place.receiver, datetime.fromisoformat(meta["at"]))
            case Kind.ASSOCIATION:
                filing.opened(
                    Opened(
                        association=meta["association"],
                        calling_ae_title=meta["calling_ae_title"],
                        called_ae_title=meta["called_ae_title"],
                        peer_host=meta["peer_host"],
                        receiver=place.receiver,
                        at=datetime.fromisoformat(meta["at"]),
                    )
                )
            case Kind.ASSOCIATION_ENDED:
                end = AssociationEnd(meta["end"])
                filing.ended(Ended(meta["association"], end, datetime.fromisoformat(meta["at"])))
            case Kind.INSTANCE | Kind.LARGE_INSTANCE:
                content = self._content(frame, place.folder)
                if content is None:
                    extra = fields("index", sop_instance=meta["sop_instance_uid"])
                    log.warning("A large instance in a journal has no file and is passed over", extra=extra)
                    return
                self._file_instance(frame, content, filing, place)
                if isinstance(content, Path):
                    large.append(content)
            case Kind.UNKNOWN:
                self._keep_unfiled(frame, place, "it was written by another version")

    def _content(self, frame: Frame, folder: Path) -> bytes | Path | None:
        """The Part 10 file of an instance; None for other frames, and for a large instance without its file: that was
        removed by its receiver since the flush of the frame failed, so it was never acknowledged.
        """
        if frame.kind is Kind.INSTANCE:
            return frame.body
        if frame.kind is not Kind.LARGE_INSTANCE:
            return None
        path = folder / str(frame.meta["file"])
        return path if path.is_file() and path.stat().st_size == frame.meta["size"] else None

    def _file_instance(self, frame: Frame, content: bytes | Path, filing: Filing, place: _Place) -> None:
        try:
            filing.instance(instance_of(frame.meta), content)
        except Unfileable as error:
            self._keep_unfiled(frame, place, str(error))
        except OSError as error:
            if error.errno in TROUBLE_OF_THE_DEVICE:
                raise
            # A folder that belongs to somebody else, for example: no reason to hold up all the others.
            self._keep_unfiled(frame, place, _why(error))

    def _keep_unfiled(self, frame: Frame, place: _Place, why: str) -> None:
        """Whatever was acknowledged stays, even what nobody can file."""
        folder = self._journals.parent / UNFILED
        folder.mkdir(exist_ok=True)
        content = self._content(frame, place.folder) if frame.meta.get("sop_instance_uid") else None
        body = content.read_bytes() if isinstance(content, Path) else frame.body
        path = folder / f"{place.receiver}-{place.segment}-{hashlib.sha256(body).hexdigest()[:16]}.dcm"
        if not path.exists():
            path.write_bytes(body)
        log.error("A frame of a journal cannot be filed (%s); it is kept as %s", why, path.name, extra=fields("index"))

    # -- the end of a segment ------------------------------------------------------------------------------------------

    def _keep_damaged(self, reader: SegmentReader, place: _Place, end: int) -> None:
        """Bytes that are no frame, with whole frames behind them: damage. What follows it is filed."""
        kept = reader.path.with_name(f"{reader.path.stem}-{place.offset}.damaged")
        if not kept.exists():
            kept.write_bytes(reader.rest(place.offset)[: end - place.offset])
        log.error(
            "A journal is damaged: %d bytes of %s are no frame; they are kept as %s",
            end - place.offset,
            reader.path.name,
            kept.name,
            extra=fields("index", journal=place.receiver),
        )

    def _note_tail(self, reader: SegmentReader, place: _Place) -> None:
        """What lies behind the last frame of a segment that nobody writes any more."""
        left = reader.size - place.offset
        if reader.is_cut_off(place.offset):
            log.warning(
                "A journal ends in %d bytes of an instance that was never acknowledged",
                left,
                extra=fields("index", journal=place.receiver),
            )
        else:
            self._keep_damaged(reader, place, reader.size)

    def _retire(self, place: _Place, following: int | None) -> None:
        """Flushes what the segment held, and removes it."""
        try:
            for file_system in self._file_systems:
                file_system.settle()
        except OSError:
            # Said once for everything that was not written: all of the segment is compared with the disk again.
            place.offset, place.large = 0, []
            raise
        for path in place.large:
            path.unlink(missing_ok=True)
        journal.path_of(place.folder, place.segment).unlink()
        journal.remove_stray_files(place.folder, place.segment, following)
        place.segment, place.offset, place.large = place.segment + 1, 0, []


def _why(error: Exception) -> str:
    """Without the names of files that an OSError brings along."""
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else str(error)
