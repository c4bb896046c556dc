"""Modality Performed Procedure Steps (PS3.4 annex F): datasets as durable files, their states as rows.

IN PROGRESS → COMPLETED | DISCONTINUED. Whose word counts is decided where it is evidence (`storage.tables.evidence`).
The last word of each host is kept. A host that neither created a step nor sent images of its studies changes no step.

A row is written once the file it names is durable, and both are there before
the modality gets its answer. Each N-SET writes a new file and moves the row to it. If two N-SETs race, only the one
that had read the current row succeeds.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from storage.blobs import FileBlob
from storage.errors import Permanent
from storage.log.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, write_durable
from storage.records.procedure_steps import ProcedureStep, ProcedureStepState
from storage.records.studies import Event, Stage
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, insert_if_absent
from storage.tables.events import add_event

log = logging.getLogger(__name__)

PROCEDURE_STEP_CLASS_UID = "1.2.840.10008.3.1.2.3.3"  # Modality Performed Procedure Step
_SUFFIX = ".dcm"


class ProcedureSteps:
    """The procedure steps. `root` is the folder of their datasets, which only the node's own user may read."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root

    def create(
        self,
        sop_instance_uid: str,
        ds: Dataset,
        source_ae_title: str,
        study_instance_uids: Sequence[str],
        referenced: Sequence[str],
        now: datetime,
        host: str = "",
    ) -> bool:
        """Keep a new step, IN PROGRESS. Return False and change nothing if a step with this UID exists.

        `host` is where it came from; empty if it is a configured peer, which is believed without having sent images.
        Raises Retriable if the database is busy or gone, StorageFull, OSError.
        """
        path = self._write(sop_instance_uid, 1, ds, source_ae_title)
        with self._database.session() as session:
            new = insert_if_absent(
                session,
                schema.ProcedureStepRow,
                {
                    "sop_instance_uid": sop_instance_uid,
                    "state": ProcedureStepState.IN_PROGRESS,
                    "source_ae_title": source_ae_title[:16],
                    "referenced": list(referenced),
                    "created_at": now,
                    "ended_at": None,
                    "version": 1,
                    "path": path.name,
                },
            )
            if new:
                _feed(session, sop_instance_uid, study_instance_uids)
                _state(session, sop_instance_uid, host, ProcedureStepState.IN_PROGRESS, referenced, now)
                _announce(session, study_instance_uids, ProcedureStepState.IN_PROGRESS, referenced, now)
            kept = session.get_one(schema.ProcedureStepRow, sop_instance_uid).path
        if kept != path.name:
            path.unlink(missing_ok=True)
        return new

    def update(
        self,
        step: ProcedureStep,
        ds: Dataset,
        state: ProcedureStepState,
        study_instance_uids: Sequence[str],
        referenced: Sequence[str],
        now: datetime,
        host: str = "",
    ) -> bool:
        """Move `step` to its next version.

        Return False and change nothing if the row of the step has changed since `step` was read. The word of a host
        that neither created the step nor sent images is kept beside it, and the step itself does not change.
        """
        with self._database.session() as session:
            if _is_stranger(session, step.sop_instance_uid, host, study_instance_uids):
                _feed(session, step.sop_instance_uid, study_instance_uids)
                _state(session, step.sop_instance_uid, host, state, referenced, now)
                return True
        path = self._write(step.sop_instance_uid, step.version + 1, ds, step.source_ae_title)
        row = schema.ProcedureStepRow
        final = state is not ProcedureStepState.IN_PROGRESS
        with self._database.session() as session:
            won = changed(
                session,
                update(row)
                .where(
                    and_(
                        row.sop_instance_uid == step.sop_instance_uid,
                        row.version == step.version,
                        row.state == ProcedureStepState.IN_PROGRESS,
                    )
                )
                .values(
                    state=state,
                    referenced=list(referenced),
                    version=step.version + 1,
                    path=path.name,
                    ended_at=now if final else None,
                ),
            )
            if won:
                _feed(session, step.sop_instance_uid, study_instance_uids)
                _state(session, step.sop_instance_uid, host, state, referenced, now)
                if final:
                    _announce(session, study_instance_uids, state, referenced, now)
            kept = session.scalar(select(row.path).where(row.sop_instance_uid == step.sop_instance_uid))
        if won:
            self._remove_versions_before(step, step.version + 1)
        elif kept != path.name:
            path.unlink(missing_ok=True)
        return bool(won)

    def get(self, sop_instance_uid: str) -> ProcedureStep | None:
        with self._database.reading() as session:
            row = session.get(schema.ProcedureStepRow, sop_instance_uid)
            return None if row is None else self._records(session, [row])[0]

    def of_study(self, study_instance_uid: str) -> list[ProcedureStep]:
        """Return the steps that produced the study, oldest first."""
        row, link = schema.ProcedureStepRow, schema.ProcedureStepStudyRow
        statement = (
            select(row)
            .join(link, link.sop_instance_uid == row.sop_instance_uid)
            .where(link.study_instance_uid == study_instance_uid)
            .order_by(row.created_at, row.sop_instance_uid)
        )
        with self._database.reading() as session:
            return self._records(session, session.scalars(statement).all())

    def dataset(self, step: ProcedureStep) -> Dataset:
        """Return the dataset. Raises OSError if the file is gone, because a newer version has replaced it."""
        with step.blob.open() as file:
            return Dataset(dcmread(file))

    # -- files ---------------------------------------------------------------------------------------------------------

    def _write(self, sop_instance_uid: str, version: int, ds: Dataset, source_ae_title: str) -> Path:
        """Write a file whose name depends on version and content, so that two racing N-SETs write different files."""
        decode(ds)
        kept = Dataset()
        kept.update(ds)
        kept.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, which encodes the names of every N-SET
        kept.SOPClassUID = UID(PROCEDURE_STEP_CLASS_UID)
        kept.SOPInstanceUID = UID(sop_instance_uid)
        kept.file_meta = FileMetaDataset()
        kept.file_meta.MediaStorageSOPClassUID = UID(PROCEDURE_STEP_CLASS_UID)
        kept.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
        kept.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        kept.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        kept.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        kept.file_meta.SourceApplicationEntityTitle = source_ae_title[:16]
        content = BytesIO()
        try:
            kept.save_as(content, enforce_file_format=True)
        except Exception as error:
            raise Permanent(f"The dataset cannot be encoded ({type(error).__name__})") from None
        digest = hashlib.sha256(content.getvalue()).hexdigest()[:16]
        return write_durable(self._root / f"{sop_instance_uid}-{version}-{digest}{_SUFFIX}", kept).path

    def _remove_versions_before(self, step: ProcedureStep, version: int) -> None:
        """Remove the files of earlier versions, of writers that lost a race, and of writers that died."""
        for path in self._root.glob(f"{step.sop_instance_uid}-*{_SUFFIX}"):
            number = path.name.removeprefix(f"{step.sop_instance_uid}-").split("-")[0]
            if number.isdigit() and int(number) < version:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _records(self, session: Session, rows: Sequence[schema.ProcedureStepRow]) -> list[ProcedureStep]:
        link = schema.ProcedureStepStudyRow
        studies: dict[str, list[str]] = {}
        uids = [row.sop_instance_uid for row in rows]
        for uid, study in session.execute(
            select(link.sop_instance_uid, link.study_instance_uid)
            .where(link.sop_instance_uid.in_(uids))
            .order_by(link.study_instance_uid)
        ):
            studies.setdefault(uid, []).append(study)
        return [
            ProcedureStep(
                sop_instance_uid=row.sop_instance_uid,
                state=row.state,
                source_ae_title=row.source_ae_title,
                study_instance_uids=tuple(studies.get(row.sop_instance_uid, ())),
                referenced=tuple(row.referenced),
                created_at=row.created_at,
                ended_at=row.ended_at,
                blob=FileBlob(self._root / row.path),
                version=row.version,
            )
            for row in rows
        ]


def decode(ds: Dataset) -> None:
    """Decode all elements of a dataset, which pydicom otherwise does one by one on access."""
    for _ in ds.iterall():
        pass


def _feed(session: Session, sop_instance_uid: str, study_instance_uids: Sequence[str]) -> None:
    for study in study_instance_uids:
        insert_if_absent(
            session, schema.ProcedureStepStudyRow, {"sop_instance_uid": sop_instance_uid, "study_instance_uid": study}
        )


def _state(
    session: Session, uid: str, host: str, state: ProcedureStepState, referenced: Sequence[str], now: datetime
) -> None:
    """Keep the word of a host about a step, in place of its earlier one."""
    row = schema.ProcedureStepStatementRow
    of_step = row.sop_instance_uid == uid
    number = session.scalar(select(func.max(row.sequence)).where(of_step)) or 0
    values = {
        "state": state,
        "referenced": list(referenced),
        "at": now,
        "ended_at": None if state is ProcedureStepState.IN_PROGRESS else now,
        "sequence": number + 1,
    }
    new = {"sop_instance_uid": uid, "host": host[:255], "created": number == 0, **values}
    if not insert_if_absent(session, row, new):
        changed(session, update(row).where(of_step, row.host == host[:255]).values(**values))


def _is_stranger(session: Session, uid: str, host: str, study_instance_uids: Sequence[str]) -> bool:
    """Return True if the host neither created the step nor sent images.

    A step without any statement was created before statements were kept, so that nobody is a stranger to it.
    """
    row, feed, association = schema.ProcedureStepStatementRow, schema.FeedRow, schema.AssociationRow
    creators = session.scalars(select(row.host).where(row.sop_instance_uid == uid, row.created)).all()
    sent = (
        select(association.id)
        .join(feed, feed.association_id == association.id)
        .where(association.peer_host == host[:255], feed.study_instance_uid.in_(study_instance_uids))
        .limit(1)
    )
    is_other = bool(host) and bool(creators) and host[:255] not in creators
    return is_other and session.scalar(sent) is None


def _announce(
    session: Session,
    study_instance_uids: Sequence[str],
    state: ProcedureStepState,
    referenced: Sequence[str],
    now: datetime,
) -> None:
    """Add a line to the timeline of each study, even if no instance of the study has come yet."""
    text = f"procedure step {state}"
    if state is not ProcedureStepState.IN_PROGRESS:
        text += f", {len(referenced)} instances referenced"
    for uid in study_instance_uids:
        study = session.get(schema.StudyRow, uid)
        add_event(session, Event(now, uid, 1 if study is None else study.revision, Stage.RECEIVED, text))
