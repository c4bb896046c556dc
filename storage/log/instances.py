"""The store of received instances: what the index lists, and the blobs in which their bytes are read."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from storage.blobs import Blob
from storage.log.filing.associations import abort_open_associations
from storage.log.filing.batch import FeedsInputs, Filing
from storage.log.filing.blobs import StoredBlobs
from storage.log.filing.entries import usual_file
from storage.log.filing.rows import address_in, read_kept_headers
from storage.log.headers.patient_header import read_identity
from storage.log.patient_key import PATIENT_KEY, PatientKey
from storage.records.instances import Facts, Instance, InstancePlace, LoggedInstance, Series
from storage.records.patients import StudyIdentities
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, changed, chunks
from storage.tables.patients import keep_subject, study_identities

_KEY = ("sop_instance_uid", "series_instance_uid", "study_instance_uid", "sha256")


_YIELDED = 1000


@dataclass(frozen=True)
class KeptAside:
    """Content that is part of no study: in quarantine, or because it could not be filed."""

    place: str
    reason: str
    sop_instance_uid: str
    study_instance_uid: str
    is_quarantined: bool


_Logged = schema.InstanceRow | schema.InstanceVersionRow | schema.AsideRow | schema.RepeatedRow


class SeriesState(NamedTuple):
    """A summary of the rows of a series, which changes when an instance comes, changes or lies elsewhere."""

    instances: int
    last_received_at: datetime
    revisions: int
    size: int
    segments: int | None
    offsets: int | None


class InstanceStore:
    """The instances in the journals below `journals`, and those that release 0.1 filed below `root`.

    `feeds_inputs(sop_class_uid, modality)` says whether an instance can be an application's input. A late instance
    opens a new revision of its study only if this function returns True. One process files; any number may read.
    """

    def __init__(self, database: Database, journals: Path, root: Path, feeds_inputs: FeedsInputs) -> None:
        self._database = database
        self._blobs = StoredBlobs(journals, root)
        self._feeds_inputs = feeds_inputs
        self._key = PatientKey(root.parent / PATIENT_KEY)

    def filing(self) -> Filing:
        """Return an empty batch of instances and associations to be filed."""
        return Filing(self._database, self._blobs, self._key, self._feeds_inputs)

    def abort_open_associations(self, receiver: str, before: datetime) -> int:
        """End as aborted the associations that an earlier process of a receiver left open; return their number."""
        return abort_open_associations(self._database, receiver, before)

    # -- reading -------------------------------------------------------------------------------------------------------

    def instances(self, study_instance_uid: str, series_instance_uids: Collection[str] | None = None) -> list[Instance]:
        """Return the instances of a study or of some of its series, by series in the order of their arrival."""
        row = schema.InstanceRow
        order = (row.series_instance_uid, row.received_at, row.sop_instance_uid)
        here = _listed_columns().where(row.study_instance_uid == study_instance_uid)
        if series_instance_uids is not None:
            here = here.where(row.series_instance_uid.in_(list(series_instance_uids)))
        return self._read(here.order_by(*order))

    def sample(self, study_instance_uid: str, count: int) -> list[Instance]:
        """Return any instances of a study that are no results of this node, at most `count`."""
        row, own = schema.InstanceRow, schema.OwnInstanceRow
        is_own = select(own.sop_instance_uid).where(own.sop_instance_uid == row.sop_instance_uid).exists()
        here = _listed_columns().where(row.study_instance_uid == study_instance_uid, ~is_own)
        return self._read(here.order_by(row.series_instance_uid, row.sop_instance_uid).limit(count))

    def kept_headers(
        self, study_instance_uid: str, series_instance_uids: Collection[str] | None = None
    ) -> dict[InstancePlace, bytes]:
        """Return the kept headers of a study or of some of its series (`storage.log.headers.kept_header`).

        Instances without one are left out: those that release 0.1 filed.
        """
        with self._database.reading() as session:
            return read_kept_headers(session, study_instance_uid, series_instance_uids)

    def arriving(self) -> dict[tuple[str, str], int]:
        """Count the instances of each series of the studies in RECEIVING. The key has the UIDs of study and series."""
        row, study = schema.InstanceRow, schema.StudyRow
        key = (row.study_instance_uid, row.series_instance_uid)
        counted = select(*key, func.count()).group_by(*key)
        with self._database.reading() as session:
            receiving = select(study.study_instance_uid).where(study.state == StudyState.RECEIVING)
            return {
                (study_uid, series_uid): count
                for chunk in chunks(session.scalars(receiving).all())
                for study_uid, series_uid, count in session.execute(counted.where(row.study_instance_uid.in_(chunk)))
            }

    def all(self) -> Iterator[Instance]:
        """Yield every instance in its current version, study by study."""
        with self._database.reading() as session:
            studies = session.scalars(select(schema.StudyRow.study_instance_uid)).all()
        for study in studies:
            yield from self.instances(study)

    def series(self, study_instance_uid: str, series_instance_uids: Collection[str] | None = None) -> list[Series]:
        """Return the series of a study, or some of them, by their UIDs.

        Results of this node that a PACS sent back are included.
        """
        found = self.instances(study_instance_uid, series_instance_uids)
        grouped = groupby(found, key=lambda i: i.series_instance_uid)
        return [
            Series(
                series_instance_uid=uid,
                study_instance_uid=study_instance_uid,
                modality=instances[0].modality,
                instances=instances,
            )
            for uid, instances in ((uid, tuple(group)) for uid, group in grouped)
        ]

    def series_states(
        self, study_instance_uid: str, series_instance_uids: Collection[str] | None = None
    ) -> dict[str, SeriesState]:
        """Return the states of the series of a study, or of some of them, by their UIDs."""
        row = schema.InstanceRow
        sums = (func.sum(column) for column in (row.revision, row.size, row.segment_id, row.frame_offset))
        counted = select(row.series_instance_uid, func.count(), func.max(row.received_at), *sums)
        counted = counted.where(row.study_instance_uid == study_instance_uid).group_by(row.series_instance_uid)
        if series_instance_uids is not None:
            counted = counted.where(row.series_instance_uid.in_(list(series_instance_uids)))
        with self._database.reading() as session:
            return {uid: SeriesState(*state) for uid, *state in session.execute(counted)}

    def own(self, study_instance_uid: str) -> frozenset[str]:
        """Return the SOP Instance UIDs of results of this node that came back into a study."""
        own, instance = schema.OwnInstanceRow, schema.InstanceRow
        statement = select(own.sop_instance_uid).join(instance, instance.sop_instance_uid == own.sop_instance_uid)
        with self._database.reading() as session:
            return frozenset(session.scalars(statement.where(instance.study_instance_uid == study_instance_uid)))

    def identities(self, study_instance_uid: str) -> StudyIdentities:
        """Return the patients that the instances of a study state, as keyed hashes.

        Instances that were filed before patients were compared are read again. Raises OSError if that fails.
        """
        self._keep_subjects(study_instance_uid)
        with self._database.reading() as session:
            return study_identities(session, study_instance_uid)

    def _keep_subjects(self, study_instance_uid: str) -> None:
        """Keep the patient of each row that has none. An instance that states no patient gets the empty identity."""
        tables: tuple[_Row, ...] = (schema.InstanceRow, schema.InstanceVersionRow)
        with self._database.reading() as session:
            unread = [
                (table, {name: getattr(row, name) for name in _KEY}, self._blob(row, segment))
                for table in tables
                for row, segment in session.execute(
                    _with_segment(table).where(
                        table.study_instance_uid == study_instance_uid, table.subject_id.is_(None)
                    )
                )
            ]
        found = []
        for table, key, blob in unread:
            with suppress(FileNotFoundError):
                found.append((table, key, self._key.subject(read_identity(blob))))
        if not found:
            return
        with self._database.session(derivable=True) as session:
            subjects = {subject: keep_subject(session, subject) for *_, subject in found}
            for table, key, subject in found:
                here = (getattr(table, name) == value for name, value in key.items())
                changed(session, update(table).where(*here).values(subject_id=subjects[subject]))

    def _read(self, statement: Select[Any]) -> list[Instance]:
        with self._database.reading() as session:
            return [self._record(row) for row in session.execute(statement)]

    def _record(self, row: Any) -> Instance:
        return Instance(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            study_instance_uid=row.study_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            modality=row.modality,
            blob=self._blob(row, None if row.segment_id is None else row),
            received_at=row.received_at,
            revision=row.revision,
            facts=Facts.from_json(row.facts),
        )

    def _blob(self, row: schema.InstanceRow | schema.InstanceVersionRow, segment: schema.SegmentRow | None) -> Blob:
        address = address_in(row, segment)
        if address is not None:
            return self._blobs.at(address, row.sha256)
        usual = usual_file(row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
        return self._blobs.old(row.file or usual, row.size, row.sha256, is_hashed=row.rest_sha256 is not None)

    def listed(self) -> Iterator[tuple[InstancePlace, str]]:
        """Yield the place and the checksum of all content that is listed: current, earlier, or kept aside."""
        for row in (schema.InstanceRow, schema.InstanceVersionRow, schema.AsideRow):
            columns = (row.sop_instance_uid, row.series_instance_uid, row.study_instance_uid, row.sha256)
            with self._database.reading() as session:
                for *place, sha256 in session.execute(select(*columns).execution_options(yield_per=_YIELDED)):
                    yield InstancePlace(*place), sha256

    def logged(self, receiver: str, number: int, start: int, end: int) -> list[LoggedInstance]:
        """Return what has a row and begins in this range of a segment: current, earlier, or kept aside."""
        tables = (schema.InstanceRow, schema.InstanceVersionRow, schema.AsideRow)
        with self._database.reading() as session:
            found = {one for row in tables for one in _beginning_in(session, row, receiver, number, start, end)}
        return sorted(found, key=lambda one: one.frame_offset)

    def is_repeated(self, receiver: str, number: int, start: int, end: int) -> bool:
        """Return True if something begins in this range of a segment that lies elsewhere too, where a row names it."""
        with self._database.reading() as session:
            return bool(_beginning_in(session, schema.RepeatedRow, receiver, number, start, end))

    def kept_aside(self) -> list[KeptAside]:
        """Return what is part of no study, and why."""
        row = schema.AsideRow
        with self._database.reading() as session:
            columns = select(row.place, row.reason, row.sop_instance_uid, row.study_instance_uid, row.sha256)
            return [
                KeptAside(place, reason, sop, study, is_quarantined=bool(sha256))
                for place, reason, sop, study, sha256 in session.execute(columns.order_by(row.place))
            ]

    def is_empty(self) -> bool:
        """Return True if no instance is indexed."""
        with self._database.reading() as session:
            return session.scalar(select(schema.InstanceRow.sop_instance_uid).limit(1)) is None


def _beginning_in(
    session: Session, row: type[_Logged], receiver: str, number: int, start: int, end: int
) -> list[LoggedInstance]:
    segment = schema.SegmentRow
    here = (segment.receiver == receiver, segment.number == number, row.frame_offset.between(start, end - 1))
    columns = (row.frame_offset, row.sop_instance_uid, row.study_instance_uid)
    rows = session.execute(select(*columns).join(segment, segment.id == row.segment_id).where(*here))
    return [LoggedInstance(int(offset or 0), sop, study) for offset, sop, study in rows]


_Row = type[schema.InstanceRow] | type[schema.InstanceVersionRow]


def _with_segment(row: _Row) -> Select[Any]:
    segment = schema.SegmentRow
    columns: tuple[Any, ...] = (row, segment)
    return select(*columns).outerjoin(segment, segment.id == row.segment_id)


def _listed_columns() -> Select[Any]:
    """Select what an `Instance` needs. Columns are read in half of the time that objects take."""
    row, segment = schema.InstanceRow.__table__, schema.SegmentRow
    columns = [column for column in row.columns if column.key != "kept"]
    return select(*columns, segment.receiver, segment.number).outerjoin(segment, segment.id == row.c.segment_id)
