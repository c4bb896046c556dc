"""The deletion of studies: first noted in the log of the index role, then carried out, whatever happens in between.

Each step may be repeated, and a start of the index role repeats those that a crash cut short:

1. the deletion is noted and flushed, with the place of every frame and file;
2. the rows go, in one transaction;
3. the frames are destroyed where they lie, and files are removed;
4. segments of which nothing is left are removed;
5. it is noted that nothing is left.

On a full disk step 3 comes first and makes room. Whoever reads meanwhile is told that the instance was deleted.
"""

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from storage.errors import DeletionRefused, StorageFull, StudyInUse
from storage.log.deletion.records import DeletedFrame, Deletion, DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.log.deletion.rows import (
    aside_files,
    came_back,
    count_instances,
    forget_segment,
    is_known,
    is_segment_unused,
    procedure_step_files,
    refuse_undelivered,
    refuse_while_in_use,
    remove_rows,
    stop_jobs,
    stored_frames,
    studies_here,
    tell_deletions,
)
from storage.log.files import sync_folder
from storage.log.filing.release01 import kept_aside_of
from storage.log.index_log import DeletedFrames, IndexLog, segments_of
from storage.log.segments.frames import HEAD_BYTES, FrameKind
from storage.log.segments.store import Segments
from storage.records.instances import Address
from storage.tables.database.connection import Database

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0  # between looks whether a study is still in use
_INSTANCES = (FrameKind.INSTANCE, FrameKind.LARGE_INSTANCE, FrameKind.UNKNOWN)

Step = Callable[[str], object]


@dataclass(frozen=True)
class StudyFolders:
    """The folders of a data directory in which files of studies lie.

    Each of `by_study` has a folder for each study. `procedure_steps` names patients too.
    """

    data_dir: Path
    journals: Path
    by_study: tuple[Path, ...]
    procedure_steps: Path


class Deletions:
    """The deletions of studies of one data directory. Only the writer of its `index_log` may have one.

    `step` is called with the name of each step once it is done, which tests interrupt.
    """

    def __init__(
        self, database: Database, folders: StudyFolders, index_log: IndexLog, step: Step = lambda name: None
    ) -> None:
        self._database = database
        self._folders = folders
        self.index_log = index_log
        self._requests = DeletionRequests(index_log.folder)
        self._step = step
        self.deleted = DeletedFrames(folders.journals)
        self._segments = Segments(folders.journals, self.deleted.of)
        self._known: set[str] = set()  # keys of deletions
        self._with_rows: list[Deletion] = []  # deletions whose rows are to be removed
        self._unfinished: list[Deletion] = []
        self._waiting: dict[str, float] = {}  # when to look again at requests that wait

    def prepare(self) -> None:
        """Learn what is deleted, go on with what was cut short, and remove what a restored database brought back.

        Nothing may be indexed before. Raises Retriable and OSError.
        """
        deletions = []
        for deletion in self.index_log.deletions():
            self.deleted.add(deletion)
            deletions.append(replace(deletion, frames=(), files=()))  # of all that was ever deleted, too much to hold
        self._known = {deletion.key for deletion in deletions}
        self._unfinished = self.index_log.unfinished()
        self._with_rows = list(self._unfinished)
        self.remove_pending_rows()
        with self._database.session() as session:
            here = studies_here(session, {deletion.study_instance_uid for deletion in deletions})
            again = (one for one in self.index_log.deletions() if one.study_instance_uid in here) if here else ()
            for deletion in again:
                if not came_back(session, deletion):
                    continue
                remove_rows(session, deletion)
                extra = {"action": "deleted_study_removed_again", "study": deletion.study_instance_uid}
                log.warning("The database held a study that was deleted; its rows are removed again", extra=extra)
            tell_deletions(session, deletions)
        for receiver, number in self.deleted.segments():
            self._remove_if_empty(receiver, number)

    def remove_pending_rows(self) -> None:
        """Remove the rows that could not be removed yet. Nothing may be indexed before. Raises Retriable, OSError."""
        while self._with_rows:
            deletion = self._with_rows[0]
            try:
                self._remove_rows(deletion)
            except StorageFull:  # room is made by what else is to be removed
                self._destroy(deletion)
                self._remove_rows(deletion)
            del self._with_rows[0]
            self._step("rows")

    def advance(self) -> None:
        """Carry out what is asked for. Raises Retriable and OSError; the next call goes on."""
        self._finish_all()
        for request in self._requests.all():
            if time.monotonic() < self._waiting.get(request.key, 0.0):
                continue
            try:
                self.delete(request)
            except StudyInUse as error:
                if request.key not in self._waiting:
                    log.info(
                        "The deletion of a study waits: %s",
                        error,
                        extra={"action": "deletion_waits", "study": request.study_instance_uid},
                    )
                self._waiting[request.key] = time.monotonic() + AGAIN_SECONDS
            except DeletionRefused as error:
                log.warning(
                    "A study is not deleted: %s",
                    error,
                    extra={"action": "deletion_refused", "study": request.study_instance_uid},
                )
                self._requests.remove(request.key)

    def delete(self, request: DeletionRequest) -> None:
        """Delete a study. Raises StudyInUse, DeletionRefused, Retriable and OSError.

        Everything that was acknowledged before must be indexed. Nothing happens if the study is not here.
        """
        if request.key not in self._known:
            try:
                self._begin(request)
            except StorageFull:
                if request.key not in self._known:
                    raise
            self.remove_pending_rows()
        self._finish_all()
        self._requests.remove(request.key)
        self._waiting.pop(request.key, None)

    def _begin(self, request: DeletionRequest) -> None:
        """Note the deletion, and remove the rows in the transaction that found it possible."""
        uid = request.study_instance_uid
        with self._database.session() as session:
            if not request.even_if_undelivered:
                refuse_undelivered(session, uid)
            stop_jobs(session, uid, datetime.now(UTC))
        with self._database.session() as session:
            if not is_known(session, uid):
                return
            if not request.even_if_undelivered:
                refuse_undelivered(session, uid)
            refuse_while_in_use(session, uid)
            steps = self._step_files(procedure_step_files(session, uid))
            deletion = Deletion(
                key=request.key,
                study_instance_uid=uid,
                reason=request.reason,
                at=datetime.now(UTC),
                instances=count_instances(session, uid),
                frames=tuple(self._frames(stored_frames(session, uid))),
                files=tuple(sorted({*aside_files(session, uid), *steps, *self._files_of(uid)})),
            )
            self.index_log.delete(deletion)
            self._known.add(deletion.key)
            self._unfinished.append(deletion)
            self._with_rows.append(deletion)
            self.deleted.add(deletion)
            self._step("noted")
            remove_rows(session, deletion)
        self._with_rows.remove(deletion)
        self._step("rows")

    # -- what there is -------------------------------------------------------------------------------------------------

    def _frames(self, found: dict[Address, str]) -> Iterator[DeletedFrame]:
        """Yield the frames at these addresses, with their ends."""
        by_segment: dict[tuple[str, int], list[Address]] = defaultdict(list)
        for address in found:
            by_segment[address.receiver, address.segment].append(address)
        for (receiver, number), addresses in sorted(by_segment.items()):
            ends = self._ends(receiver, number, addresses)
            for address in sorted(addresses, key=lambda one: one.frame_offset):
                place = (receiver, number, address.frame_offset, ends[address.frame_offset])
                yield DeletedFrame(*place, found[address], address.file)

    def _ends(self, receiver: str, number: int, addresses: Iterable[Address]) -> dict[int, int]:
        """Return the ends of frames by their offsets. Where a head is damaged, the row says where the file ends."""
        ends = {
            one.frame_offset: one.frame_offset + HEAD_BYTES if one.file else one.body_offset + one.length
            for one in addresses
        }
        with suppress(FileNotFoundError), self._segments.open(receiver, number) as reader:
            ends |= {offset: reader.end_of(offset) or end for offset, end in ends.items()}
        return ends

    def _step_files(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the files of procedure steps, those of earlier versions too."""
        root = self._folders.procedure_steps
        for name in names:
            step = name.split("-")[0]
            yield from (self._relative(path) for path in root.glob(f"{step}-*"))

    def _files_of(self, study_instance_uid: str) -> Iterator[str]:
        for folder in self._folders.by_study:
            yield from (self._relative(path) for path in (folder / study_instance_uid).rglob("*") if path.is_file())
        yield from map(self._relative, kept_aside_of(self._folders.data_dir, study_instance_uid))

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._folders.data_dir))

    # -- the steps -----------------------------------------------------------------------------------------------------

    def _finish_all(self) -> None:
        while self._unfinished:
            self._finish(self._unfinished[0])
            del self._unfinished[0]

    def _finish(self, deletion: Deletion) -> None:
        self._destroy(deletion)
        for receiver, number in segments_of(deletion):
            self._remove_if_empty(receiver, number)
        self._step("segments")
        self._database.forget_removed()
        self.index_log.deleted(deletion.key)
        self.index_log.keep_reserve()
        self._step("done")
        extra = {"action": "study_deleted", "study": deletion.study_instance_uid}
        log.info("A study was deleted, with %d instances", deletion.instances, extra=extra)

    def _remove_rows(self, deletion: Deletion) -> None:
        with self._database.session() as session:
            remove_rows(session, deletion)

    def _destroy(self, deletion: Deletion) -> None:
        """Destroy the frames where they lie, and remove the files."""
        ranges: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        for frame in deletion.frames:
            ranges[frame.receiver, frame.segment].append((frame.offset + HEAD_BYTES, frame.end))
        for (receiver, number), found in ranges.items():
            with suppress(FileNotFoundError):
                self._segments.punch(receiver, number, found)
        self._step("punched")
        for frame in deletion.frames:
            if frame.file is not None:
                self._segments.delete_file(frame.receiver, frame.file)
        for receiver in {frame.receiver for frame in deletion.frames if frame.file is not None}:
            self._segments.sync_names(receiver)
        self._remove_files(deletion)
        self._step("files")

    def _remove_files(self, deletion: Deletion) -> None:
        root = self._folders.data_dir.resolve()
        folders: set[Path] = set()
        for name in deletion.files:
            path = root / name
            if path.resolve().is_relative_to(root):
                path.unlink(missing_ok=True)
                folders.add(path.parent)
        for folder in sorted(folders, reverse=True):  # the inner ones first
            _remove_empty(folder, root)

    def _remove_if_empty(self, receiver: str, number: int) -> None:
        """Remove a segment that is indexed and of whose instances none is left. One with damaged bytes is kept."""
        with suppress(FileNotFoundError):
            if not self._is_mostly_deleted(receiver, number):
                return
            with self._database.reading() as session:
                if not is_segment_unused(session, receiver, number):
                    return
            if not self._holds_nothing(receiver, number):
                return
            self._segments.delete(receiver, number)
            self._segments.sync_names(receiver)
            with self._database.session() as session:
                forget_segment(session, receiver, number)

    def _is_mostly_deleted(self, receiver: str, number: int) -> bool:
        """Return False for a segment that need not be read, because more is left of it than can be no instances."""
        gone = sum(end - offset for offset, end in self.deleted.of(receiver, number).items())
        return 2 * gone > self._segments.size(receiver, number)

    def _holds_nothing(self, receiver: str, number: int) -> bool:
        with self._segments.open(receiver, number) as reader:
            end = reader.first
            for frame in reader.all_frames():
                if frame.offset > end or frame.kind in _INSTANCES:
                    return False
                end = frame.end
            return end >= reader.size or reader.is_cut_off(end)


def check_deletion(database: Database, study_instance_uid: str, even_if_undelivered: bool = False) -> bool:
    """Return True if anything of a study is here that can be deleted. Raises DeletionRefused."""
    with database.reading() as session:
        if not even_if_undelivered:
            refuse_undelivered(session, study_instance_uid)
        return is_known(session, study_instance_uid)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder that is empty, and those around it; make the removal of names durable. Folders of `root` stay."""
    while folder != root and folder.is_dir():
        sync_folder(folder)
        if folder.parent == root or os.listdir(folder):
            return
        folder.rmdir()
        folder = folder.parent
