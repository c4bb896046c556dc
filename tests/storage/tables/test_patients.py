"""Which studies are of one patient; what is kept of that says nothing to who has the database alone."""

import stat
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import select, update

from storage.records.patients import NOBODY, PatientIdentity, StudyBatch
from storage.tables.database import schema
from storage.tables.patients import Patients
from tests.storage.node import NOW, SECRET, UNDECIDED, Node, received

PERSON = PatientIdentity(SECRET, "HOSPITAL", "19500101", "M")


@pytest.fixture
def patients(node: Node) -> Patients:
    return under_key(node, "patients.key")


def under_key(node: Node, name: str) -> Patients:
    return Patients(node.database, node.root.parent / name)


def bring(node: Node, patient: PatientIdentity, *studies: str) -> None:
    for uid in studies:
        node.store(received(study=uid, patient=patient))
        node.complete(uid)


def identify_all(patients: Patients, count: int = 100, stated: PatientIdentity = NOBODY) -> list[str]:
    """Identify the studies that are not, and return those of which instances were read."""
    read: list[str] = []
    after: str | None = ""
    while after is not None:
        batch = patients.unidentified(after, count)
        for uid in batch.unidentified:
            patients.identify(uid, partial(lambda uid: read.append(uid) or stated, uid))
        after = batch.last
    return read


def forget(node: Node, subject: str | None = None) -> None:
    """Leave the studies as earlier versions did."""
    with node.database.session() as session:
        session.execute(update(schema.StudyRow).values(subject=subject, routed_subject=None))


def test_studies_of_one_patient_are_found(node: Node, patients: Patients) -> None:
    bring(node, PERSON, "1.1", "1.2")
    bring(node, PatientIdentity(SECRET, "OTHER HOSPITAL"), "1.3")
    bring(node, NOBODY, "1.4", "1.5")
    node.store(received(study="1.6", patient=PERSON))  # still arrives
    assert patients.unidentified("", 100) == StudyBatch((), None)
    assert patients.others("1.1") == ["1.2"]
    assert patients.others("1.6") == ["1.1", "1.2"]
    assert patients.others("1.3") == patients.others("1.4") == patients.others("9.9") == []


@pytest.mark.parametrize("former", [None, "0" * 16, "0" * 64])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_existing_studies_are_identified_from_their_rows_once(
    node: Node, patients: Patients, count: int, former: str | None
) -> None:
    """The parts of a batch may come before and after a restart, and the index may be faster."""
    bring(node, PERSON, "1.1", "1.2", "1.3", "1.4")
    forget(node, former)
    assert patients.others("1.1") == []
    first = patients.unidentified("", 2)
    assert first == StudyBatch(("1.1", "1.2"), "1.2")
    assert patients.identify("1.1", lambda: NOBODY)
    assert not patients.identify("1.1", lambda: NOBODY)
    assert identify_all(under_key(node, "patients.key"), count) == []
    assert patients.others("1.1") == ["1.2", "1.3", "1.4"]


def test_under_a_lost_key_instances_are_read_again(node: Node, patients: Patients) -> None:
    bring(node, PERSON, "1.1", "1.2")
    other = under_key(node, "other.key")
    assert identify_all(other, stated=PERSON) == ["1.1", "1.2"]
    assert other.others("1.1") == ["1.2"]
    bring(node, PERSON, "1.3")  # the index has the key of this node
    assert identify_all(patients, stated=PERSON) == []


def test_what_states_an_id_names_the_patient(node: Node, patients: Patients) -> None:
    """Instances that state none, or that lie behind by their UIDs, change nothing."""
    bring(node, PERSON, "1.1")
    for number, patient in ((1, NOBODY), (2, PERSON), (3, replace(PERSON, issuer="OTHER"))):
        node.store(received(number, study="1.2", patient=patient))
    node.complete("1.2")
    assert patients.others("1.1") == ["1.2"]


def test_results_that_came_back_do_not_name_the_patient(node: Node, patients: Patients) -> None:
    """They state the patient of the time when they were made."""
    bring(node, PatientIdentity("CORRECTED"), "1.1")
    with node.database.session() as session:
        session.add(schema.OwnInstanceRow(sop_instance_uid=received(1, study="1.2").instance.sop_instance_uid))
    for number, patient in ((1, PERSON), (2, PatientIdentity("CORRECTED"))):
        node.store(received(number, study="1.2", patient=patient))
    node.complete("1.2")
    assert patients.others("1.1") == ["1.2"]
    assert [one.sop_instance_uid for one in node.instances.sample("1.2", 3)] == ["1.2.1.2"]


def test_a_correction_concerns_the_studies_of_both_patients(node: Node, patients: Patients) -> None:
    bring(node, PERSON, "1.1", "1.2")
    bring(node, PatientIdentity("CORRECTED"), "1.3")
    assert patients.routed("1.1") == ["1.2"]
    patients.note_routed("1.1", 1)
    node.store(received(study="1.1", patient=PatientIdentity("CORRECTED"), comment="corrected"))
    node.complete("1.1")
    patients.note_routed("1.1", 1)  # of a revision that is over
    assert patients.routed("1.1") == ["1.2", "1.3"]
    patients.note_routed("1.1", node.study("1.1").revision)
    assert patients.routed("1.1") == patients.others("1.1") == ["1.3"]


def test_studies_that_were_routed_meanwhile(node: Node, patients: Patients) -> None:
    bring(node, PERSON, "1.1", "1.2", "1.3")
    assert node.studies.ignore("1.2", 1, "", UNDECIDED, NOW)
    event = patients.last_event()
    assert patients.routed_since("1.1", event) == []
    assert node.studies.ignore("1.3", 1, "", UNDECIDED, NOW - timedelta(hours=1))  # the clock was set back
    assert patients.routed_since("1.1", event) == ["1.3"]


def test_identifiers_are_neither_kept_nor_hashed_without_the_key(node: Node, patients: Patients) -> None:
    bring(node, PERSON, "1.1", "1.2")
    with node.database.reading() as session:
        (one,) = set(session.scalars(select(schema.StudyRow.subject)))
    identify_all(under_key(node, "other.key"), stated=PERSON)
    with node.database.reading() as session:
        (two,) = set(session.scalars(select(schema.StudyRow.subject)))
    assert one != two
    assert SECRET not in f"{one}{two}"
    key = node.root.parent / "patients.key"
    assert len(key.read_bytes()) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
