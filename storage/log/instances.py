"""The store of received instances: it reads the index, and can rebuild it from the files."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from storage.blobs import FileBlob, dataset_offset
from storage.errors import NodeError, Permanent, Retriable
from storage.log.archive import ASIDE, INSTANCE_SUFFIX, VERSION_MARK, Archive, sop_instance_uid_of
from storage.log.associations import abort_open_associations
from storage.log.filing import FeedsInputs, Filing
from storage.log.headers.instance_reader import read_instance_header
from storage.log.headers.patient_header import read_identity
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.records.instances import UID, Facts, Instance, ReceivedInstance, Series, Stored
from storage.records.patients import StudyIdentities
from storage.records.problems import ProblemKind
from storage.records.studies import Event, Stage
from storage.tables.commitments import set_aside
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed
from storage.tables.events import add_event
from storage.tables.patients import keep_subject, study_identities
from storage.tables.problems import open_problem

log = logging.getLogger(__name__)

_KEY = ("sop_instance_uid", "series_instance_uid", "study_instance_uid", "sha256")
_REINDEX_BATCH = 200
_LONGEST_KEY = 200  # of a problem


class InstanceStore:
    """The instances below `root`, as `<study>/<series>/<SOP instance>.dcm`, and their rows.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input. A late instance
    opens a new revision of its study only if this function returns True. An instance that contradicts an archived one
    is kept in the folder `quarantine` beside `root`. One process files below one root; any number may read.
    """

    def __init__(self, database: Database, root: Path, feeds_inputs: FeedsInputs) -> None:
        self._database = database
        self._root = root
        self._archive = Archive(root)
        self._feeds_inputs = feeds_inputs
        self._key = PatientKey(root.parent / PATIENT_KEY)

    def filing(self) -> Filing:
        """Return an empty batch of instances and associations to be filed and indexed."""
        return Filing(self._database, self._archive, self._key, self._feeds_inputs)

    def abort_open_associations(self, receiver: str, before: datetime) -> int:
        """End as aborted the associations that an earlier process of a receiver left open; return their number."""
        return abort_open_associations(self._database, receiver, before)

    # -- reading -------------------------------------------------------------------------------------------------------

    def instances(self, study_instance_uid: str) -> list[Instance]:
        """Return all instances of a study, grouped by series, in the order of their arrival."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(schema.InstanceRow)
                .where(schema.InstanceRow.study_instance_uid == study_instance_uid)
                .order_by(
                    schema.InstanceRow.series_instance_uid,
                    schema.InstanceRow.received_at,
                    schema.InstanceRow.sop_instance_uid,
                )
            )
            return [self._record(row) for row in rows]

    def sample(self, study_instance_uid: str, count: int) -> list[Instance]:
        """Return any instances of a study, at most `count`."""
        with self._database.reading() as session:
            rows = session.scalars(
                select(schema.InstanceRow)
                .where(schema.InstanceRow.study_instance_uid == study_instance_uid)
                .order_by(schema.InstanceRow.series_instance_uid, schema.InstanceRow.sop_instance_uid)
                .limit(count)
            )
            return [self._record(row) for row in rows]

    def all(self) -> Iterator[Instance]:
        """Yield every instance in its current version, study by study."""
        with self._database.reading() as session:
            studies = session.scalars(select(schema.StudyRow.study_instance_uid)).all()
        for study in studies:
            yield from self.instances(study)

    def series(self, study_instance_uid: str) -> list[Series]:
        """Return the series of a study by their UIDs. Results of this node that a PACS sent back are included."""
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

    def identities(self, study_instance_uid: str) -> StudyIdentities:
        """Return the patients that the instances of a study state, as keyed hashes.

        Instances that were filed before patients were compared are read again. Raises OSError if that fails.
        """
        self._keep_subjects(study_instance_uid)
        with self._database.reading() as session:
            return study_identities(session, study_instance_uid)

    def _keep_subjects(self, study_instance_uid: str) -> None:
        """Keep the patient of each row that has none. An instance that states no patient gets the empty identity."""
        instance, version = schema.InstanceRow, schema.InstanceVersionRow
        current = select(instance).where(instance.study_instance_uid == study_instance_uid)
        earlier = select(version).where(version.study_instance_uid == study_instance_uid)
        with self._database.reading() as session:
            rows: list[schema.InstanceRow | schema.InstanceVersionRow] = [
                *session.scalars(current.where(instance.subject_id.is_(None))),
                *session.scalars(earlier.where(version.subject_id.is_(None))),
            ]
            unread = [(type(row), {name: getattr(row, name) for name in _KEY}, self._path(row)) for row in rows]
        if not unread:
            return
        found = [(table, key, read_identity(FileBlob(path))) for table, key, path in unread if path.exists()]
        with self._database.session(derivable=True) as session:
            subjects = {identity: keep_subject(session, self._key.subject(identity)) for *_, identity in found}
            for table, key, identity in found:
                here = (getattr(table, name) == value for name, value in key.items())
                changed(session, update(table).where(*here).values(subject_id=subjects[identity]))

    def _record(self, row: schema.InstanceRow) -> Instance:
        return Instance(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            study_instance_uid=row.study_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            modality=row.modality,
            blob=FileBlob(self._path(row), row.size, row.sha256),
            received_at=row.received_at,
            revision=row.revision,
            facts=Facts.from_json(row.facts),
        )

    def _path(self, row: schema.InstanceRow | schema.InstanceVersionRow) -> Path:
        usual = f"{row.study_instance_uid}/{row.series_instance_uid}/{row.sop_instance_uid}{INSTANCE_SUFFIX}"
        return self._root / (row.file or usual)

    def is_empty(self) -> bool:
        """Return True if no instance is indexed."""
        with self._database.reading() as session:
            return session.scalar(select(schema.InstanceRow.sop_instance_uid).limit(1)) is None

    def remove_stale(self) -> None:
        """Remove the temporary files of writers that died."""
        self._archive.remove_stale()

    # -- rebuilding the index ------------------------------------------------------------------------------------------

    def reindex(self) -> int:
        """Insert the rows that files lack, and return their number. Also remove temporary files of dead writers.

        A file that has a row is not read. An added instance counts as received now, so that its study waits for further
        instances of an interrupted transfer. A file that cannot be read causes a warning and stays where it is.
        """
        self.remove_stale()
        added = 0
        filing = self.filing()
        for path in self.files_without_row():
            try:
                if filing.instance(_read(path), path) is Stored.CONFLICT:
                    path.unlink()  # the quarantine holds another link to it
                else:
                    added += 1
            except Retriable:
                raise
            except Exception as error:  # damaged bytes make a parser fail in many ways
                self._warn_unreadable(path, error)
            if len(filing) >= _REINDEX_BATCH:
                filing.commit()
        filing.commit()
        if added:
            log.warning("%d files that had no row were indexed", added, extra={"action": "files_reindexed"})
        return added

    def files_without_row(self) -> Iterator[Path]:
        """Yield the files without a row, first versions before later versions, and the latter by time of creation."""
        for study in sorted(self._root.glob("[0-9]*")):
            known = self._known_files(study.name)
            files = study.glob(f"[0-9]*/[0-9]*{INSTANCE_SUFFIX}")
            found = [path for path in files if str(path.relative_to(self._root)) not in known]
            yield from sorted(found, key=lambda p: (VERSION_MARK in p.name, p.stat().st_mtime_ns, p.name))

    def _known_files(self, study_instance_uid: str) -> set[str]:
        instance, version = schema.InstanceRow, schema.InstanceVersionRow
        folder = instance.study_instance_uid + "/" + instance.series_instance_uid
        usual = folder + "/" + instance.sop_instance_uid + INSTANCE_SUFFIX
        here = instance.study_instance_uid == study_instance_uid
        with self._database.reading() as session:
            files = session.scalars(select(func.coalesce(instance.file, usual)).where(here)).all()
            versions = session.scalars(
                select(func.coalesce(version.file, usual))
                .join(
                    instance,
                    (instance.sop_instance_uid == version.sop_instance_uid)
                    & (instance.series_instance_uid == version.series_instance_uid)
                    & (instance.study_instance_uid == version.study_instance_uid),
                )
                .where(here)
            ).all()
        return {*files, *versions}

    # -- what is kept aside --------------------------------------------------------------------------------------------

    def note_aside(self, path: Path, sop_instance_uid: str, received_at: datetime) -> None:
        """Note that content of an acknowledged instance is kept aside as this file, and so is part of no study."""
        with self._database.session(derivable=True) as session:
            self._note_aside(session, path, sop_instance_uid, received_at)

    def note_all_aside(self, unfiled: Path) -> None:
        """Open the problems of files in quarantine and in `unfiled` that have none, because the database was lost.

        Nothing tells whether other content of their instances was acknowledged later, so they count as the last.
        """
        quarantine, now = self._archive.quarantine, datetime.now(UTC)
        with self._database.session(derivable=True) as session:
            for path in sorted(p for p in quarantine.rglob(f"[0-9]*{INSTANCE_SUFFIX}*") if p.is_file()):
                folder = path.relative_to(quarantine).parts[0]
                study = "" if folder == ASIDE else folder
                text = f"A file with the UID of another image is part of no study, and is kept as {path.name}"
                if _is_new(session, ProblemKind.QUARANTINED, path.name, text, study) and study:
                    uid = path.name.removesuffix(INSTANCE_SUFFIX).rpartition(".")[0]
                    self._note_aside(session, path, uid, now)
            for path in sorted(unfiled.glob(f"*{INSTANCE_SUFFIX}")):
                text = f"An acknowledged frame of a journal could not be filed; it is kept as {path.name}"
                _is_new(session, ProblemKind.UNFILED, path.name, text)

    def _note_aside(self, session: Session, path: Path, sop_instance_uid: str, received_at: datetime) -> None:
        file = str(path.relative_to(self._root.parent))
        if UID.fullmatch(sop_instance_uid):  # of another one, no peer can ask for a commitment
            set_aside(session, file, sop_instance_uid, received_at)

    def _warn_unreadable(self, path: Path, error: Exception) -> None:
        """Warn about a file that cannot be read: in the log every time, in the timeline of its study once."""
        why = str(error) if isinstance(error, NodeError) else type(error).__name__
        name = str(path.relative_to(self._root))
        log.warning(
            "The file %s cannot be indexed and stays where it is: %s", name, why, extra={"action": "file_unreadable"}
        )
        study_instance_uid = path.parent.parent.name[:64]
        with self._database.session() as session:
            known = session.scalars(
                select(schema.EventRow.data).where(
                    schema.EventRow.study_instance_uid == study_instance_uid, schema.EventRow.stage == Stage.WARNING
                )
            ).all()
            if any(data.get("file") == name for data in known):
                return
            study = session.get(schema.StudyRow, study_instance_uid)
            revision = 1 if study is None else study.revision
            text = f"a stored file cannot be read ({why}) and is left out"
            told = f"A stored file cannot be read ({why}) and is part of no study: {name}"
            open_problem(session, ProblemKind.UNFILED, name[-_LONGEST_KEY:], told, study_instance_uid)
            add_event(
                session,
                Event(datetime.now(UTC), study_instance_uid, revision, Stage.WARNING, text, data={"file": name}),
            )


def _is_new(session: Session, kind: ProblemKind, key: str, text: str, study_instance_uid: str = "") -> bool:
    """Open a problem unless it is open already; return True if it was not."""
    if session.get(schema.ProblemRow, (kind, key)) is not None:
        return False
    return open_problem(session, kind, key, text, study_instance_uid)


def _read(path: Path) -> ReceivedInstance:
    """Read the header of a file at its place. Raises Permanent if the file is not the instance that its name says."""
    meta = read_file_meta_info(path)
    transfer_syntax_uid = str(meta.TransferSyntaxUID)
    with path.open("rb") as file:
        file.seek(dataset_offset(file.read(144)))
        header = read_instance_header(file, transfer_syntax_uid)
    named = (path.parent.parent.name, path.parent.name, sop_instance_uid_of(path))
    if (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid) != named:
        raise Permanent("it holds another instance than its name says")
    return ReceivedInstance(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        modality=header.modality,
        source_ae_title=str(meta.get("SourceApplicationEntityTitle", "")),
        association="",
        received_at=datetime.now(UTC),
        facts=header.facts,
        patient=header.patient,
    )
