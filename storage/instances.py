"""Received instances: durable files, and the index of them that lets studies be completed and routed.

The file comes first and is all that counts: the peer is told Success once file and row are there, and a row that a
crash kept from being written is made anew from the file.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage import schema
from storage.database import Database, changed, insert_if_absent
from storage.errors import NodeError, Permanent
from storage.events import add_event
from storage.files import DurableTree, dataset_sha256, part10_header
from storage.records import AssociationEnd, Instance, ReceivedInstance, Series, Stored, StudyState

log = logging.getLogger(__name__)

UID = re.compile(r"[0-9][0-9.]{0,63}")  # wider than PS3.5 9.1, but safe as the name of a file
SUFFIX = ".dcm"
QUARANTINE = "quarantine"


@dataclass(frozen=True)
class _Row:
    """What the index keeps of one instance."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    size: int
    sha256: str
    received_at: datetime


class InstanceStore:
    """Instances below `root`, as `<study>/<series>/<SOP instance>.dcm`, and their rows.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input: only such a one
    opens a new revision of its study when it comes late. What differs from an instance that is already here is kept
    in the folder `quarantine` beside `root`. Threads and processes may share one root.
    """

    def __init__(self, database: Database, root: Path, feeds_inputs: Callable[[str, str], bool]) -> None:
        self._database = database
        self._root = root
        self._feeds_inputs = feeds_inputs
        self._tree = DurableTree(root)
        self._quarantine = DurableTree(root.parent / QUARANTINE)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def store(self, instance: ReceivedInstance) -> Stored:
        """Keeps one instance; file and row are there on return, the file durably.

        Raises Permanent for a UID that cannot be a file's name, StorageFull, and Retriable when the database is
        busy; what was already written is then taken up when the peer sends again, or by `reindex`.
        """
        for uid in (
            instance.study_instance_uid,
            instance.series_instance_uid,
            instance.sop_instance_uid,
            instance.sop_class_uid,
            instance.transfer_syntax_uid,
        ):
            if not UID.fullmatch(uid):
                raise Permanent("A UID has other characters than digits and dots, or more than 64")
        sha256 = hashlib.sha256(instance.dataset).hexdigest()
        header = part10_header(
            instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid, instance.source_ae_title
        )
        row = _Row(
            sop_instance_uid=instance.sop_instance_uid,
            sop_class_uid=instance.sop_class_uid,
            series_instance_uid=instance.series_instance_uid,
            study_instance_uid=instance.study_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            modality=_code(instance.modality),
            size=len(header) + len(instance.dataset),
            sha256=sha256,
            received_at=datetime.now(UTC),
        )
        path = self._path(row)
        if path.exists() or not self._tree.write_new(path, header, instance.dataset):
            if not self._holds(path, sha256):
                return self._keep_beside(row, header, instance.dataset)
            self._tree.settle(path)
        stored = self._index(row, instance.association_id)
        if stored is Stored.CONFLICT:
            self._keep_beside(row, header, instance.dataset)
            path.unlink(missing_ok=True)
        return stored

    def _holds(self, path: Path, sha256: str) -> bool:
        try:
            return dataset_sha256(path) == sha256
        except Permanent:
            return False

    def _keep_beside(self, row: _Row, *parts: bytes) -> Stored:
        """Other bytes under a UID that is taken: nobody can tell which ones are right, so both are kept."""
        name = f"{row.sop_instance_uid}.{row.sha256[:16]}{SUFFIX}"
        path = self._quarantine.root / row.study_instance_uid / row.series_instance_uid / name
        if self._quarantine.write_new(path, *parts):
            self._warn(
                row.study_instance_uid,
                "an instance came again with other bytes; the first ones stand, the others are in quarantine",
                {"sop_instance_uid": row.sop_instance_uid, "file": str(path.relative_to(self._quarantine.root))},
            )
        else:
            self._quarantine.settle(path)
        return Stored.CONFLICT

    def _index(self, row: _Row, association_id: int | None) -> Stored:
        """Writes the row unless it is there. CONFLICT: the UID is taken by an instance of another series."""
        while True:
            try:
                with self._database.session(derivable=True) as session:
                    known = session.execute(
                        select(schema.Instance.study_instance_uid, schema.Instance.series_instance_uid).where(
                            schema.Instance.sop_instance_uid == row.sop_instance_uid
                        )
                    ).one_or_none()
                    if known is None:
                        self._add(session, row, association_id)
                        return Stored.NEW
                    if tuple(known) != (row.study_instance_uid, row.series_instance_uid):
                        return Stored.CONFLICT
                    self._note_again(session, row, association_id)
                    return Stored.DUPLICATE
            except IntegrityError:  # PostgreSQL: someone wrote the same row since we looked; now there is one to see
                continue

    def _add(self, session: Session, row: _Row, association_id: int | None) -> None:
        """One new instance: of a new study, of the running revision, or late."""
        study = self._locked(session, row.study_instance_uid)
        if study is None and self._open_study(session, row):
            revision = 1
            self._announce(session, row, revision, association_id, "first instance")
        else:
            study = study or self._locked(session, row.study_instance_uid)
            assert study is not None
            revision = study.revision
            changes: dict[str, object] = {}
            if study.state != StudyState.RECEIVING and self._can_feed(session, row):
                revision += 1
                reason = f"a late {row.modality or 'image'} instance of series {row.series_instance_uid} came"
                changes = {
                    "revision": revision,
                    "state": StudyState.RECEIVING,
                    "reason": reason,
                    "revision_started_at": row.received_at,
                }
                self._announce(session, row, revision, association_id, f"revision {revision}: {reason}")
            changed(
                session,
                update(schema.Study)
                .where(schema.Study.study_instance_uid == row.study_instance_uid)
                .values(instances=schema.Study.instances + 1, last_received_at=row.received_at, **changes),
            )
        session.execute(
            insert(schema.Instance.__table__).values(  # type: ignore[arg-type]
                sop_instance_uid=row.sop_instance_uid,
                sop_class_uid=row.sop_class_uid,
                series_instance_uid=row.series_instance_uid,
                study_instance_uid=row.study_instance_uid,
                transfer_syntax_uid=row.transfer_syntax_uid,
                modality=row.modality,
                size=row.size,
                sha256=row.sha256,
                received_at=row.received_at,
                revision=revision,
            )
        )
        self._note_feed(session, row.study_instance_uid, revision, association_id)

    def _locked(self, session: Session, study_instance_uid: str) -> schema.Study | None:
        """The study's row, held until the end of the transaction, so that no state changes in between."""
        return session.scalars(
            select(schema.Study).where(schema.Study.study_instance_uid == study_instance_uid).with_for_update()
        ).one_or_none()

    def _open_study(self, session: Session, row: _Row) -> bool:
        """False when another receiver opened it in the meantime."""
        own = _is_own(session, row.sop_instance_uid)
        return insert_if_absent(
            session,
            schema.Study,
            {
                "study_instance_uid": row.study_instance_uid,
                "revision": 1,
                # A result that comes back is no reason to compute anything, not even in a study forgotten here.
                "state": StudyState.IGNORED if own else StudyState.RECEIVING,
                "reason": "nothing applies: only results of this node came" if own else "instances arrive",
                "instances": 1,
                "revision_started_at": row.received_at,
                "first_received_at": row.received_at,
                "last_received_at": row.received_at,
            },
        )

    def _can_feed(self, session: Session, row: _Row) -> bool:
        """Our own results must not: a PACS that routes them back would start an endless circle."""
        return self._feeds_inputs(row.sop_class_uid, row.modality) and not _is_own(session, row.sop_instance_uid)

    def _note_again(self, session: Session, row: _Row, association_id: int | None) -> None:
        """A sender that repeats what it sent before an abort is still at work: its study is not quiet."""
        study = self._locked(session, row.study_instance_uid)
        if study is None or study.state != StudyState.RECEIVING:
            return
        changed(
            session,
            update(schema.Study)
            .where(schema.Study.study_instance_uid == row.study_instance_uid)
            .values(last_received_at=row.received_at),
        )
        self._note_feed(session, row.study_instance_uid, study.revision, association_id)

    def _note_feed(self, session: Session, study_instance_uid: str, revision: int, association_id: int | None) -> None:
        if association_id is not None:
            insert_if_absent(
                session,
                schema.Feed,
                {"study_instance_uid": study_instance_uid, "revision": revision, "association_id": association_id},
            )

    def _announce(self, session: Session, row: _Row, revision: int, association_id: int | None, text: str) -> None:
        association = None if association_id is None else session.get(schema.Association, association_id)
        source = "" if association is None else f", from {association.calling_ae_title}"
        add_event(session, row.received_at, row.study_instance_uid, revision, "received", f"{text}{source}")

    def _warn(self, study_instance_uid: str, text: str, data: dict[str, object]) -> None:
        with self._database.session() as session:
            study = session.get(schema.Study, study_instance_uid)
            revision = 1 if study is None else study.revision
            add_event(session, datetime.now(UTC), study_instance_uid, revision, "warning", text, data=data)

    # -- associations --------------------------------------------------------------------------------------------------

    def open_association(self, calling_ae_title: str, called_ae_title: str, peer_host: str, receiver: str) -> int:
        """Notes an association at its first instance. `receiver` names the process that holds it."""
        with self._database.session(derivable=True) as session:
            association = schema.Association(
                calling_ae_title=calling_ae_title[:16],
                called_ae_title=called_ae_title[:16],
                peer_host=peer_host[:255],
                receiver=receiver,
                opened_at=datetime.now(UTC),
            )
            session.add(association)
            session.flush()
            return association.id

    def end_association(self, association_id: int, end: AssociationEnd) -> None:
        with self._database.session(derivable=True) as session:
            self._end(session, association_id, end)

    def abort_stale_associations(self, receiver: str) -> int:
        """Ends as aborted what an earlier life of this receiver left open; their number."""
        with self._database.session() as session:
            stale = session.scalars(
                select(schema.Association.id).where(
                    schema.Association.receiver == receiver, schema.Association.ended.is_(None)
                )
            ).all()
            for association_id in stale:
                self._end(session, association_id, AssociationEnd.ABORTED)
            return len(stale)

    def _end(self, session: Session, association_id: int, end: AssociationEnd) -> None:
        now = datetime.now(UTC)
        ended = changed(
            session,
            update(schema.Association)
            .where(schema.Association.id == association_id, schema.Association.ended.is_(None))
            .values(ended=end, ended_at=now),
        )
        if not ended:
            return
        fed = session.execute(
            select(schema.Feed.study_instance_uid, schema.Feed.revision, schema.Association.calling_ae_title)
            .join(schema.Association)
            .where(schema.Feed.association_id == association_id)
        ).all()
        for study_instance_uid, revision, calling in fed:
            aborted = end is AssociationEnd.ABORTED
            add_event(
                session,
                now,
                study_instance_uid,
                revision,
                "warning" if aborted else "received",
                f"association with {calling} {'aborted' if aborted else 'released'}",
            )

    # -- what is here --------------------------------------------------------------------------------------------------

    def instance(self, sop_instance_uid: str) -> Instance | None:
        with self._database.reading() as session:
            row = session.get(schema.Instance, sop_instance_uid)
            return None if row is None else self._record(row)

    def instances(self, study_instance_uid: str) -> list[Instance]:
        """All instances of a study, those of a series together, in the order of their arrival."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(schema.Instance)
                .where(schema.Instance.study_instance_uid == study_instance_uid)
                .order_by(
                    schema.Instance.series_instance_uid, schema.Instance.received_at, schema.Instance.sop_instance_uid
                )
            )
            return [self._record(row) for row in rows]

    def series(self, study_instance_uid: str) -> list[Series]:
        """The series of a study by their UIDs, our own results included where a PACS sent them back."""
        grouped = groupby(self.instances(study_instance_uid), key=lambda i: i.series_instance_uid)
        return [
            Series(
                series_instance_uid=uid,
                study_instance_uid=study_instance_uid,
                modality=instances[0].modality,
                instances=instances,
            )
            for uid, instances in ((uid, tuple(group)) for uid, group in grouped)
        ]

    def _record(self, row: schema.Instance) -> Instance:
        return Instance(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            study_instance_uid=row.study_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            modality=row.modality,
            path=self._path(row),
            size=row.size,
            sha256=row.sha256,
            received_at=row.received_at,
            revision=row.revision,
        )

    def _path(self, row: _Row | schema.Instance) -> Path:
        return self._root / row.study_instance_uid / row.series_instance_uid / f"{row.sop_instance_uid}{SUFFIX}"

    # -- after a crash -------------------------------------------------------------------------------------------------

    def reindex(self) -> int:
        """Writes the rows that files lack, and removes temporary files of writers that died. The number of rows added.

        Reads no file that has its row. An added instance counts as received now, so that its study waits for the
        rest of what the crash interrupted. A file that cannot be read is a warning and stays where it is.
        """
        self._tree.remove_stale()
        self._quarantine.remove_stale()
        added = sum(self._index_file(path) for path in self._files_without_row())
        if added:
            log.warning("Found %d instances that were not indexed", added, extra={"action": "reindex"})
        return added

    def _files_without_row(self) -> Iterator[Path]:
        for study in sorted(self._root.glob("[0-9]*")):
            with self._database.reading() as session:
                known = {
                    (series, sop)
                    for series, sop in session.execute(
                        select(schema.Instance.series_instance_uid, schema.Instance.sop_instance_uid).where(
                            schema.Instance.study_instance_uid == study.name
                        )
                    )
                }
            for path in sorted(study.glob(f"[0-9]*/[0-9]*{SUFFIX}")):
                if (path.parent.name, path.name.removesuffix(SUFFIX)) not in known:
                    yield path

    def _index_file(self, path: Path) -> bool:
        try:
            row = _read_row(path)
        except Exception as error:  # a parser fails on damaged bytes in many ways, all of which mean the same
            self._warn_unreadable(path, error)
            return False
        self._tree.settle(path)
        stored = self._index(row, None)
        if stored is Stored.CONFLICT:
            self._keep_beside(row, path.read_bytes())
            path.unlink()
        return stored is Stored.NEW

    def _warn_unreadable(self, path: Path, error: Exception) -> None:
        why = str(error) if isinstance(error, NodeError) else type(error).__name__
        name = str(path.relative_to(self._root))
        log.warning("A stored file cannot be read (%s): %s", why, name, extra={"action": "reindex"})
        study_instance_uid = path.parent.parent.name[:64]
        with self._database.reading() as session:
            told = session.scalars(
                select(schema.Event.data).where(
                    schema.Event.study_instance_uid == study_instance_uid, schema.Event.stage == "warning"
                )
            ).all()
        if not any(data.get("file") == name for data in told):  # said once, not at every start
            self._warn(study_instance_uid, f"a stored file cannot be read ({why}) and is left out", {"file": name})


def _is_own(session: Session, sop_instance_uid: str) -> bool:
    statement = select(schema.ResultObject.id).where(schema.ResultObject.sop_instance_uid == sop_instance_uid)
    return session.scalar(statement) is not None


def _code(modality: str) -> str:
    """A code string (PS3.5 6.2: CS) as every database takes it, whatever a peer sent."""
    return "".join(c for c in modality if c.isprintable())[:16]


def _read_row(path: Path) -> _Row:
    """From a file at its place. Raises Permanent when it is another instance than its name says."""
    sha256 = dataset_sha256(path)
    keywords = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID", "Modality"]
    ds = dcmread(path, stop_before_pixels=True, specific_tags=keywords)
    named = (path.parent.parent.name, path.parent.name, path.name.removesuffix(SUFFIX))
    if (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID) != named:
        raise Permanent("it holds another instance than its name says")
    if not all(UID.fullmatch(uid) for uid in named):
        raise Permanent("its name is not made of UIDs")
    return _Row(
        sop_instance_uid=named[2],
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=named[1],
        study_instance_uid=named[0],
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        modality=_code(str(ds.get("Modality", ""))),
        size=path.stat().st_size,
        sha256=sha256,
        received_at=datetime.now(UTC),
    )
