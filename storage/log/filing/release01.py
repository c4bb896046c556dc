"""The files in which release 0.1 filed instances. They are read where they lie, and never written."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydicom.filereader import dcmread, read_file_meta_info
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.blobs import seek_dataset
from storage.errors import NodeError, Permanent, Retriable
from storage.log.filing.entries import INSTANCE_SUFFIX
from storage.log.headers.instance_reader import read_instance_header
from storage.log.instances import InstanceStore
from storage.machine import is_trouble_of_the_machine
from storage.records.instances import UID, ReceivedInstance
from storage.records.problems import ProblemKind
from storage.records.studies import Event, Stage
from storage.tables.commitments import set_aside
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.events import add_event
from storage.tables.problems import open_problem

log = logging.getLogger(__name__)

VERSION_MARK = "-"  # between SOP Instance UID and content of a later version; no UID has it
QUARANTINE = "quarantine"
UNFILED = "unfiled"
ASIDE = "aside"  # a folder of the quarantine, for files that were in the way and were not indexed
_REINDEX_BATCH = 200
_LONGEST_KEY = 200  # of a problem


class OldFiles:
    """The instances below `root`, as `<study>/<series>/<SOP instance>.dcm`, and the quarantine beside it."""

    def __init__(self, database: Database, instances: InstanceStore, root: Path) -> None:
        self._database = database
        self._instances = instances
        self._root = root

    def reindex(self) -> int:
        """Insert the rows that files lack, and return their number.

        A file that has a row is not read. An added instance counts as received now, so that its study waits for further
        instances of an interrupted transfer. A file that cannot be read causes a warning and stays where it is.
        """
        added = 0
        filing = self._instances.filing()
        for path in self.without_row():
            try:
                filing.file(_read(path), str(path.relative_to(self._root)))
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

    def without_row(self) -> Iterator[Path]:
        """Yield the files without a row, first versions before later versions, and the latter by time of creation."""
        for study in sorted(self._root.glob("[0-9]*")):
            known = self._known_files(study.name)
            files = study.glob(f"[0-9]*/[0-9]*{INSTANCE_SUFFIX}")
            found = [path for path in files if str(path.relative_to(self._root)) not in known]
            yield from sorted(found, key=lambda p: (VERSION_MARK in p.name, p.stat().st_mtime_ns, p.name))

    def _known_files(self, study_instance_uid: str) -> set[str]:
        instance, version = schema.InstanceRow, schema.InstanceVersionRow
        files: set[str] = set()
        with self._database.reading() as session:
            for row in (instance, version):
                folder = row.study_instance_uid + "/" + row.series_instance_uid
                usual = folder + "/" + row.sop_instance_uid + INSTANCE_SUFFIX
                here = (row.study_instance_uid == study_instance_uid, row.segment_id.is_(None))
                files.update(session.scalars(select(func.coalesce(row.file, usual)).where(*here)))
        return files

    def note_aside(self) -> None:
        """Open the problems of files in quarantine and in `unfiled` that have none, because the database was lost.

        Nothing tells whether other content of their instances was acknowledged later, so they count as the last.
        """
        quarantine, now = self._root.parent / QUARANTINE, datetime.now(UTC)
        with self._database.session(derivable=True) as session:
            for path in sorted(p for p in quarantine.rglob(f"[0-9]*{INSTANCE_SUFFIX}*") if p.is_file()):
                folder = path.relative_to(quarantine).parts[0]
                study = "" if folder == ASIDE else folder
                text = f"A file with the UID of another image is part of no study, and is kept as {path.name}"
                if _is_new(session, ProblemKind.QUARANTINED, path.name, text, study) and study:
                    uid = path.name.removesuffix(INSTANCE_SUFFIX).rpartition(".")[0]
                    if UID.fullmatch(uid):
                        set_aside(session, uid, now)
            for path in sorted((self._root.parent / UNFILED).glob(f"*{INSTANCE_SUFFIX}")):
                text = f"An acknowledged frame of a journal could not be filed; it is kept as {path.name}"
                _is_new(session, ProblemKind.UNFILED, path.name, text)

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


def kept_aside_of(data_dir: Path, study_instance_uid: str) -> Iterator[Path]:
    """Yield the files that release 0.1 kept aside without knowing their study, and that say they belong to this one.

    A file that names the study and that nobody can parse counts as a part of it.
    """
    for folder in (data_dir / UNFILED, data_dir / QUARANTINE / ASIDE):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if study_instance_uid.encode() in path.read_bytes() and _study_of(path) in ("", study_instance_uid):
                yield path


def _study_of(path: Path) -> str:
    """Return the Study Instance UID of a file; nothing if it cannot be read or has none."""
    try:
        ds = dcmread(path, force=True, stop_before_pixels=True)
        return str(ds.get("StudyInstanceUID") or "")
    except Exception as error:  # damaged bytes make a parser fail in many ways
        if isinstance(error, MemoryError) or is_trouble_of_the_machine(error):
            raise
        return ""


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
        seek_dataset(file)
        header = read_instance_header(file, transfer_syntax_uid)
    named = (path.parent.parent.name, path.parent.name, _sop_instance_uid(path))
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


def _sop_instance_uid(path: Path) -> str:
    """Return the SOP Instance UID from the file name of an instance in any version."""
    return path.name.removesuffix(INSTANCE_SUFFIX).split(VERSION_MARK)[0]
