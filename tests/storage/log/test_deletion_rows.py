"""The rows of deleted studies, on every database: all of them go, and those of other studies stay."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from storage.errors import DeletionRefused
from storage.log.deletion.deletions import Deletions, StudyFolders, check_deletion
from storage.log.deletion.records import DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.log.deletion.rows import refuse_while_in_use
from storage.log.index_log import IndexLog
from storage.records.deliveries import ConfirmationState
from storage.records.patients import PatientIdentity
from storage.records.problems import ProblemKind
from storage.records.studies import Stage
from storage.tables.database import schema
from storage.tables.problems import Problems
from tests.storage.node import NOW, STUDY, Node, after, received

LEFT = "1.2.4"


def request(even_if_undelivered: bool = False) -> DeletionRequest:
    return DeletionRequest("a", STUDY, "asked for", datetime.now(UTC), even_if_undelivered)


def delete(node: Node, wanted: DeletionRequest) -> None:
    data_dir = node.root.parent
    log = IndexLog(data_dir / "index-log")
    log.open()
    DeletionRequests(log.folder).leave(wanted)
    deletions = Deletions(node.database, StudyFolders(data_dir, node.journals, (node.root,), data_dir / "mpps"), log)
    deletions.prepare()
    deletions.delete(wanted)
    log.close()


def count(node: Node, table: str) -> int:
    with node.database.reading() as session:
        return session.scalar(select(func.count()).select_from(schema.Base.metadata.tables[table])) or 0


def test_all_rows_of_a_study_go(node: Node) -> None:
    patient, other = (PatientIdentity(patient_id=name) for name in ("A", "B"))
    node.open_association()
    for number in (1, 2):
        node.store(received(number, patient=patient, association="a"))
        node.store(received(number, study=LEFT, patient=other, association="a"))
    node.store(received(1, patient=patient, comment="corrected"))
    node.store(received(2, patient=patient, pixels=b"\7\7\7\7"))
    node.route("liver")
    assert node.succeed(node.claim(), "PACS")
    node.arrive()
    Problems(node.database).open(ProblemKind.ROUTING_FAILED, STUDY, "broke", STUDY)
    kept = {name: count(node, name) for name in ("association", "own_instance", "installation")}
    delete(node, request())
    assert {name: count(node, name) for name in kept} == kept
    one_study = {"study": 1, "instance": 2, "shared_header": 1, "feed": 1, "subject": 1, "segment": 1, "journal": 1}
    known = {"alembic_version", "contested", "event", "acknowledgement", *kept, *one_study}
    for table in schema.Base.metadata.tables:
        if table not in known:
            assert count(node, table) == 0, table
    for table, rows in one_study.items():
        assert count(node, table) == rows, table
    (told,) = node.studies.events(STUDY)
    assert told.stage is Stage.DELETED
    assert node.study(LEFT).instances == 2


def test_what_is_not_confirmed_yet_is_not_given_up_unasked(node: Node) -> None:
    node.deliver("PACS")
    node.arrive()
    check_deletion(node.database, STUDY)
    with node.database.session() as session:
        row = schema.ConfirmationRow(
            transaction_uid="2.25.9", destination="PACS", items=[], state=ConfirmationState.REQUESTED,
            requested_at=NOW, deadline=after(60), report=None,
        )  # fmt: skip
        session.add(row)
        session.flush()
        for delivery in session.scalars(select(schema.DeliveryRow)):
            delivery.confirmation_id = row.id
    with pytest.raises(DeletionRefused, match="not confirmed yet by PACS"):
        delete(node, request())
    delete(node, request(even_if_undelivered=True))
    assert count(node, "confirmation") == count(node, "delivery") == 0


def test_a_withdrawal_that_is_not_done_is_not_given_up_unasked(node: Node) -> None:
    job = node.deliver("PACS")
    node.arrive()
    assert node.results.withdraw(job.id, "wrong", NOW)
    with pytest.raises(DeletionRefused, match="the withdrawal of its results, job 2, is not done"):
        check_deletion(node.database, STUDY)


def test_nobody_takes_up_a_job_while_it_is_removed(node: Node, url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time")
    node.store(received())
    node.route("liver")
    with node.database.session() as session:
        refuse_while_in_use(session, STUDY)
        assert node.jobs.claim("worker", NOW) is None
    assert node.claim()
