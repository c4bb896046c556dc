"""Procedure steps on both databases: what is kept, and who wins when two change one at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete

from dicom_node.dimse.status import DimseStatus
from dicom_node.receive.procedure_steps import ProcedureStepService, merge
from storage.errors import Retriable
from storage.records.procedure_steps import ProcedureStepState
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.procedure_steps import ProcedureSteps
from tests.receive.services.datasets import SECRET, completion, creation
from tests.storage.node import NOW, STUDY, Node, received

UID = "1.2.3.99"


@pytest.fixture
def steps(database: Database, tmp_path: Path) -> ProcedureSteps:
    return ProcedureSteps(database, tmp_path / "data" / "mpps")


@pytest.fixture
def service(steps: ProcedureSteps) -> ProcedureStepService:
    return ProcedureStepService(steps, lambda: NOW)


def files(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "data" / "mpps").glob("*"))


def test_a_step_is_kept_with_its_dataset(service: ProcedureStepService, steps: ProcedureSteps) -> None:
    answer, uid = service.create(UID, creation("1.2.3", "1.2.4"), "MR1")
    assert (answer.status, uid) == (DimseStatus.SUCCESS, UID)
    step = steps.get(UID)
    assert step is not None
    assert (step.state, step.source_ae_title, step.version) == (ProcedureStepState.IN_PROGRESS, "MR1", 1)
    assert step.study_instance_uids == ("1.2.3", "1.2.4")
    assert (step.referenced, step.created_at, step.ended_at) == ((), NOW, None)
    ds = steps.dataset(step)
    assert (ds.PatientName, ds.SOPInstanceUID) == (SECRET, UID)
    assert step.blob.path.stat().st_mode & 0o077 == 0
    assert [s.sop_instance_uid for s in steps.of_study("1.2.4")] == [UID]
    assert steps.of_study("1.2.5") == []


def test_the_end_replaces_the_file_and_stands_on_the_timeline(
    service: ProcedureStepService, steps: ProcedureSteps, node: Node, tmp_path: Path
) -> None:
    service.create(UID, creation(STUDY), "MR1")
    node.store(received(1))
    assert service.set(UID, completion([f"{STUDY}.1.{n}" for n in range(170)]), "MR1").status is DimseStatus.SUCCESS
    step = steps.get(UID)
    assert step is not None
    assert (step.state, step.version, step.ended_at) == (ProcedureStepState.COMPLETED, 2, NOW)
    assert len(step.referenced) == 170
    ds = steps.dataset(step)
    assert (ds.PatientName, ds.PerformedProcedureStepEndTime) == (SECRET, "121500")
    assert files(tmp_path) == [step.blob.path.name]
    told = [text for text in node.texts() if "procedure step" in text]
    assert told == [
        "received: procedure step IN PROGRESS",
        "received: procedure step COMPLETED, 170 instances referenced",
    ]


def test_a_second_creation_changes_nothing(
    service: ProcedureStepService, steps: ProcedureSteps, tmp_path: Path
) -> None:
    service.create(UID, creation(), "MR1")
    before = files(tmp_path)
    answer, _ = service.create(UID, creation("1.2.9"), "MR2")
    assert answer.status is DimseStatus.DUPLICATE_SOP_INSTANCE
    assert service.create(UID, creation(), "MR1")[0].status is DimseStatus.DUPLICATE_SOP_INSTANCE
    step = steps.get(UID)
    assert step is not None
    assert (step.source_ae_title, step.study_instance_uids) == ("MR1", ("1.2.3",))
    assert files(tmp_path) == before


def test_of_two_ends_at_once_one_wins(service: ProcedureStepService, steps: ProcedureSteps, tmp_path: Path) -> None:
    for n in range(5):
        uid = f"{UID}.{n}"
        service.create(uid, creation(), "MR1")
        changes = [completion(["1.2.3.1.1"]), completion([], "DISCONTINUED")]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda ds, uid=uid: service.set(uid, ds, "MR1"), changes))
        assert sorted(a.status for a in answers) == [DimseStatus.SUCCESS, DimseStatus.PROCESSING_FAILURE]
        assert {a.error_id for a in answers} == {None, 0xA710}
        step = steps.get(uid)
        assert step is not None
        won = [a.status for a in answers].index(DimseStatus.SUCCESS)
        assert step.state == changes[won].PerformedProcedureStepStatus
        assert steps.dataset(step).PerformedProcedureStepStatus == step.state
        assert [name for name in files(tmp_path) if name.startswith(f"{uid}-")] == [step.blob.path.name]


def test_a_change_of_what_is_no_longer_so_is_lost_to_nobody(
    service: ProcedureStepService, steps: ProcedureSteps, tmp_path: Path
) -> None:
    service.create(UID, creation(), "MR1")
    seen = steps.get(UID)
    assert seen is not None
    service.set(UID, completion(["1.2.3.1.1"], "IN PROGRESS"), "MR1")
    late = merge(creation(), completion([]))
    assert not steps.update(seen, late, ProcedureStepState.COMPLETED, ("1.2.3",), (), NOW)
    now = steps.get(UID)
    assert now is not None
    assert (now.version, now.state, now.referenced) == (2, ProcedureStepState.IN_PROGRESS, ("1.2.3.1.1",))
    assert files(tmp_path) == [now.blob.path.name]


def test_what_has_ended_is_not_changed(service: ProcedureStepService, steps: ProcedureSteps) -> None:
    service.create(UID, creation(), "MR1")
    service.set(UID, completion(["1.2.3.1.1"]), "MR1")
    ended = steps.get(UID)
    assert ended is not None
    assert not steps.update(ended, creation(), ProcedureStepState.IN_PROGRESS, ("1.2.3",), (), NOW)
    assert steps.get(UID) == ended


def test_a_database_without_tables_asks_for_a_repetition(tmp_path: Path) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    steps = ProcedureSteps(empty, tmp_path / "mpps")
    with pytest.raises(Retriable):
        steps.get(UID)
    service = ProcedureStepService(steps)
    assert service.create(UID, creation(), "MR1")[0].status is DimseStatus.RESOURCE_LIMITATION
    assert service.set(UID, completion([]), "MR1").status is DimseStatus.RESOURCE_LIMITATION
    empty.close()


def test_names_outlive_a_change_in_another_character_set(service: ProcedureStepService, steps: ProcedureSteps) -> None:
    service.create(UID, creation(SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎"), "MR1")
    changes = completion(["1.2.3.1.1"])
    changes.SpecificCharacterSet = "ISO_IR 100"
    changes.PerformedProcedureStepDescription = "Schädel"
    assert service.set(UID, changes, "MR1").status is DimseStatus.SUCCESS
    step = steps.get(UID)
    assert step is not None
    ds = steps.dataset(step)
    assert (ds.PatientName, ds.PerformedProcedureStepDescription) == ("山田^太郎", "Schädel")


def test_no_row_names_the_patient(service: ProcedureStepService, node: Node) -> None:
    service.create(UID, creation(STUDY), "MR1")
    with node.database.reading() as session:
        from sqlalchemy import text

        for table in ("procedure_step", "procedure_step_study", "event"):
            assert SECRET not in str(session.execute(text(f"SELECT * FROM {table}")).all())


def test_a_step_of_an_earlier_version_has_no_strangers(
    service: ProcedureStepService, steps: ProcedureSteps, node: Node
) -> None:
    service.create(UID, creation(STUDY), "MR1")
    with node.database.session() as session:
        session.execute(delete(schema.ProcedureStepStatementRow))
    step = steps.get(UID)
    assert step is not None
    ended = merge(creation(STUDY), completion([]))
    assert steps.update(step, ended, ProcedureStepState.COMPLETED, (STUDY,), (), NOW, "192.0.2.7")
    found = steps.get(UID)
    assert found is not None
    assert found.state is ProcedureStepState.COMPLETED
