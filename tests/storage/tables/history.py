"""The tables of a node that has run for years, filled quickly."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, String, cast, insert, literal, select, text
from sqlalchemy.orm import Session

from storage.records.commitments import CommitmentState
from storage.records.deliveries import ConfirmationState, DeliveryState
from storage.records.evidence import AssociationEnd
from storage.records.jobs import JobKind, JobState
from storage.records.patients import Subject
from storage.records.procedure_steps import ProcedureStepState
from storage.records.results import ObjectKind
from storage.records.studies import Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.columns import Base
from storage.tables.database.connection import Database
from storage.tables.patients import study_identity
from tests.storage.node import MR, NOW

BEFORE = NOW - timedelta(days=400)
KEY = "k" * 16


def fill(database: Database, studies: int) -> frozenset[str]:
    """Write that many studies of one image and one result each, finished long ago; return the tables that have rows.

    Nobody knows of whom they are, which is one identity for all.
    """
    n = select(literal(1, Integer).label("i")).cte("n", recursive=True)
    n = n.union_all(select(n.c.i + 1).where(n.c.i < studies))
    number = n.c.i
    filled: set[str] = set()

    def uid(prefix: str) -> ColumnElement[str]:
        return literal(prefix) + cast(number, String)

    def write(session: Session, table: type[Base], every: int = 1, **values: Any) -> None:
        columns = table.__table__.columns
        chosen = [
            value if isinstance(value, ColumnElement) else literal(value, columns[name].type)
            for name, value in values.items()
        ]
        rows = select(*chosen).select_from(n).where(number % every == 0)
        filled.add(table.__tablename__)
        session.execute(insert(table.__table__).from_select(list(values), rows))  # type: ignore[arg-type]

    study, image, result = uid("1.2."), uid("1.3."), uid("1.4.")
    nobody = study_identity(Subject(KEY))
    at = {"received_at": BEFORE}
    with database.session() as session:
        write(
            session, schema.StudyRow, study_instance_uid=study, revision=1, state=StudyState.ROUTED, reason="",
            instances=1, revision_started_at=BEFORE, first_received_at=BEFORE, last_received_at=BEFORE, subject=nobody,
        )  # fmt: skip
        write(
            session, schema.AssociationRow, id=number, key=uid("a"), calling_ae_title="MR1", called_ae_title="NODE",
            peer_host="host", receiver="receive-0", opened_at=BEFORE, ended_at=BEFORE, ended=AssociationEnd.RELEASED,
        )  # fmt: skip
        write(session, schema.FeedRow, study_instance_uid=study, revision=1, association_id=number)
        write(session, schema.SubjectRow, id=number, digest=uid(KEY), hashes={"patient_id": "x"})
        write(
            session, schema.SharedHeaderRow, id=number, study_instance_uid=study, series_instance_uid=study,
            list_version=1, kept=b"",
        )  # fmt: skip
        write(session, schema.SegmentRow, id=number, receiver="receive-0", number=number)
        write(
            session, schema.InstanceRow, sop_instance_uid=image, series_instance_uid=study, study_instance_uid=study,
            sop_class_uid=MR, transfer_syntax_uid=MR, modality="MR", size=1, sha256="", revision=1, facts={},
            segment_id=number, frame_offset=number, body_offset=number, subject_id=number, **at,
        )  # fmt: skip
        write(
            session, schema.InstanceVersionRow, every=10, sop_instance_uid=image, series_instance_uid=study,
            study_instance_uid=study, sha256="", segment_id=number, frame_offset=number, body_offset=number,
            subject_id=number, **at,
        )  # fmt: skip
        write(
            session, schema.AsideRow, every=10, place=uid("p"), sop_instance_uid=image, study_instance_uid=study,
            segment_id=number, frame_offset=number, body_offset=number, **at,
        )  # fmt: skip
        write(session, schema.ContestedRow, sop_instance_uid=image, filed_at=BEFORE, aside_at=BEFORE)
        write(session, schema.OwnInstanceRow, sop_instance_uid=result)
        write(
            session, schema.JobRow, id=number, study_instance_uid=study, revision=1, application="mass", inputs={},
            fingerprint="", state=JobState.SUCCEEDED, superseded=False, attempts=1, reason="", created_at=BEFORE,
            run_after=BEFORE, heartbeat_at=BEFORE, finished_at=BEFORE, kind=JobKind.ANALYSIS, detail={}, side="",
            beside="", priority=0,
        )  # fmt: skip
        write(session, schema.RoutingRow, study_instance_uid=study, revision=1, decisions={}, at=BEFORE)
        write(
            session, schema.ResultObjectRow, id=number, job_id=number, sop_instance_uid=result, sop_class_uid=MR,
            series_instance_uid=study, study_instance_uid=study, kind=ObjectKind.SEG, path="", sequence=0,
            created_at=BEFORE, destinations=["PACS"], stands_for="",
        )  # fmt: skip
        write(
            session, schema.ConfirmationRow, id=number, transaction_uid=uid("1.5."), destination="PACS", items=[],
            state=ConfirmationState.CLOSED, requested_at=BEFORE, deadline=BEFORE, report={},
        )  # fmt: skip
        write(
            session, schema.DeliveryRow, id=number, object_id=number, job_id=number, sequence=0, destination="PACS",
            state=DeliveryState.COMMITTED, attempts=1, reason="", created_at=BEFORE, run_after=BEFORE,
            claimed_at=BEFORE, sent_at=BEFORE, committed_at=BEFORE, confirmation_id=number, resends=0, waited_seconds=0,
            may_have_arrived=False, warning="", coerced=False,
        )  # fmt: skip
        write(
            session, schema.EventRow, at=BEFORE, study_instance_uid=study, revision=1, stage=Stage.ROUTED, text="",
            data={},
        )  # fmt: skip
        write(
            session, schema.ProcedureStepRow, sop_instance_uid=uid("1.6."), state=ProcedureStepState.COMPLETED,
            source_ae_title="MR1", referenced=[], created_at=BEFORE, version=1, path="",
        )  # fmt: skip
        write(session, schema.ProcedureStepStudyRow, sop_instance_uid=uid("1.6."), study_instance_uid=study)
        write(
            session, schema.CommitmentRow, id=number, transaction_uid=uid("1.7."), peer_ae_title="MR1",
            peer_host="host", items=[], state=CommitmentState.REPORTED, attempts=1, reason="", requested_at=BEFORE,
            run_after=BEFORE, association="", waited_seconds=0,
        )  # fmt: skip
        if session.get_bind().dialect.name == "postgresql":
            for name in (
                "association",
                "job",
                "result_object",
                "confirmation",
                "delivery",
                "commitment",
                "segment",
                "shared_header",
                "subject",
            ):
                session.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), {studies})"))
            session.execute(text("ANALYZE"))
    return frozenset(filled)
