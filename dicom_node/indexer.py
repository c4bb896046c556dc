"""The `index` role: files what receivers have written into their journals, and gives it rows.

It may be killed at any moment and reads the journals again from their beginning: filing the same thing twice changes
nothing. A segment is removed once everything in it is filed, indexed and flushed.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.logs import fields
from storage import journal
from storage.database import Database
from storage.errors import IndexLost, Permanent, Retriable
from storage.files import FileSystem
from storage.filing import Ended, Filing, Opened
from storage.instances import InstanceStore
from storage.journal import Frame, Kind, SegmentReader, instance_of
from storage.records import AssociationEnd, Stored

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between looks for new frames
LONGEST_PAUSE_SECONDS = 10.0  # between tries while the database or the disk refuses
BATCH = 256  # frames in one transaction
UNFILED = "unfiled"


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

    def prepare(self) -> None:
        """Gives rows to files that lack them: those of a database that was lost, or restored from an older copy."""
        self._instances.reindex()

    def run(self, stop: threading.Event) -> None:
        """Files until `stop` is set. Nothing that the database or the disk refuses ends it."""
        pause = LOOK_SECONDS
        while not self._wait(stop, pause):
            try:
                self.advance()
                pause = LOOK_SECONDS
            except IndexLost:
                self._rebuild()
            except (Retriable, OSError) as error:
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
                why = str(error) if isinstance(error, Retriable) else f"{type(error).__name__}: {error.strerror}"
                log.warning("Filing is put off for %.1f s: %s", pause, why, extra=fields("index"))

    def advance(self) -> int:
        """Files all there is; the number of instances. Raises Retriable or OSError, and then goes on where it was."""
        began = datetime.now(UTC)
        filed = sum(
            self._advance(self._places.setdefault(folder, _Place(folder)))
            for folder in sorted(self._journals.glob("*"))
            if folder.is_dir()
        )
        journal.note_filed(self._journals, began)
        return filed

    def _rebuild(self) -> None:
        log.error("The database lost its tables; the index is made anew from the files", extra=fields("index"))
        try:
            self._database.upgrade()
            self._instances.reindex()
            self._places.clear()
        except Retriable as error:
            log.warning("The index is rebuilt later: %s", error, extra=fields("index"))

    # -- one journal ---------------------------------------------------------------------------------------------------

    def _advance(self, place: _Place) -> int:
        filed = 0
        while True:
            # In this order: a segment that is followed by another, or has no writer, gets no more frames.
            written = journal.is_written(place.folder)
            numbers = [journal.number_of(path) for path in journal.segments(place.folder)]
            numbers = [number for number in numbers if number >= place.segment]
            if not numbers:
                return filed
            if numbers[0] != place.segment:
                place.segment, place.offset, place.large = numbers[0], 0, []
            with SegmentReader(journal.path_of(place.folder, place.segment)) as reader:
                filed += self._file(reader, place)
                if len(numbers) == 1 and written:
                    return filed
                self._inspect_tail(reader, place)
            self._retire(place, numbers[1] if len(numbers) > 1 else None)

    def _file(self, reader: SegmentReader, place: _Place) -> int:
        """Everything from `place` to the end of what is written; the place moves with each transaction."""
        filed = 0
        filing = self._instances.filing()
        end = place.offset
        large: list[Path] = []
        for frame in reader.frames(place.offset):
            if frame.kind is Kind.STARTED:
                filed += self._commit(reader, filing, place, end, large)
                self._instances.abort_open_associations(place.receiver, datetime.fromisoformat(frame.meta["at"]))
            else:
                self._apply(frame, filing, place, large)
            end = frame.end
            if len(filing) >= BATCH:
                filed += self._commit(reader, filing, place, end, large)
        return filed + self._commit(reader, filing, place, end, large)

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
            case Kind.INSTANCE:
                self._file_instance(frame, frame.body, filing)
            case Kind.LARGE_INSTANCE:
                path = place.folder / str(meta["file"])
                if path.exists():
                    self._file_instance(frame, path, filing)
                    large.append(path)
                else:  # its receiver removed it since the flush of its frame failed: it was never acknowledged
                    extra = fields("index", sop_instance=meta["sop_instance_uid"])
                    log.warning("A large instance in a journal has no file and is passed over", extra=extra)

    def _file_instance(self, frame: Frame, content: bytes | Path, filing: Filing) -> None:
        instance = instance_of(frame.meta)
        extra = fields("index", sop_instance=instance.sop_instance_uid)
        try:
            filing.instance(instance, content)
        except Permanent as error:
            kept = self._keep_unfiled(instance.sop_instance_uid, content)
            log.error("An instance cannot be filed (%s); it is kept as %s", error, kept.name, extra=extra)

    def _keep_unfiled(self, sop_instance_uid: str, content: bytes | Path) -> Path:
        """Whatever was acknowledged stays, even what nobody can file."""
        folder = self._journals.parent / UNFILED
        folder.mkdir(exist_ok=True)
        name = "".join(c if c.isdigit() or c == "." else "_" for c in sop_instance_uid)[:64] or "_"
        path = folder / f"{name}.dcm"
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        return path

    # -- the end of a segment ------------------------------------------------------------------------------------------

    def _inspect_tail(self, reader: SegmentReader, place: _Place) -> None:
        """Bytes behind the last frame of a segment that nobody writes any more are a frame that was cut off, and was
        never acknowledged; or, with whole frames behind them, damage. What follows the damage is filed too."""
        while reader.size() > place.offset:
            behind = reader.damaged_until(place.offset)
            if behind is None:
                log.warning(
                    "A journal ends in %d bytes of an instance that was never acknowledged",
                    reader.size() - place.offset,
                    extra=fields("index", journal=place.receiver),
                )
                return
            kept = reader.path.with_suffix(".damaged")
            if not kept.exists():
                kept.write_bytes(reader.path.read_bytes())
            log.error(
                "A journal is damaged: %d bytes in %s are no frame; a copy is kept as %s",
                behind - place.offset,
                reader.path.name,
                kept.name,
                extra=fields("index", journal=place.receiver),
            )
            place.offset = behind
            self._file(reader, place)

    def _retire(self, place: _Place, following: int | None) -> None:
        """Flushes what the segment held, and removes it."""
        for file_system in self._file_systems:
            file_system.settle()
        for path in place.large:
            path.unlink(missing_ok=True)
        journal.path_of(place.folder, place.segment).unlink()
        journal.remove_stray_files(place.folder, following)
        place.segment, place.offset, place.large = place.segment + 1, 0, []
