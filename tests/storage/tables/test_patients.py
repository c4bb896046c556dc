"""Which studies are of one patient; what is kept of that says nothing to who has the database alone."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import select

from storage.tables.database import schema
from storage.tables.patients import Patients
from tests.storage.node import SECRET, Node, received


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "patients.key"


def bring(node: Node, *studies: str) -> None:
    for uid in studies:
        node.store(received(study=uid))
        node.complete(uid)


def test_studies_of_one_patient_are_found(node: Node, key: Path) -> None:
    bring(node, "1.1", "1.2", "1.3", "1.4", "1.5")
    node.store(received(study="1.6"))  # still arrives
    patients = Patients(node.database, key)
    assert sorted(patients.unidentified()) == ["1.1", "1.2", "1.3", "1.4", "1.5"]
    for uid in ("1.1", "1.2", "1.6"):
        patients.identify(uid, SECRET, "HOSPITAL")
    patients.identify("1.3", SECRET, "OTHER HOSPITAL")
    patients.identify("1.4", "", "")
    patients.identify("1.5", "", "")
    assert Patients(node.database, key).studies(SECRET, "HOSPITAL") == ["1.1", "1.2"]
    assert patients.others("1.1") == ["1.2"]
    assert patients.others("1.3") == []
    assert patients.others("1.4") == patients.studies("", "") == []  # nobody's
    assert patients.unidentified() == []
    patients.identify("1.2", "CORRECTED", "HOSPITAL")
    assert patients.others("1.1") == []


def test_identifiers_are_neither_kept_nor_hashed_without_the_key(node: Node, key: Path, tmp_path: Path) -> None:
    bring(node, "1.1", "1.2")
    Patients(node.database, key).identify("1.1", SECRET, "HOSPITAL")
    other = Patients(node.database, tmp_path / "other.key")
    assert sorted(other.unidentified()) == ["1.1", "1.2"]  # under another key nothing is known
    other.identify("1.2", SECRET, "HOSPITAL")
    with node.database.reading() as session:
        one, two = session.scalars(select(schema.StudyRow.subject).order_by(schema.StudyRow.study_instance_uid))
    assert one != two
    assert SECRET not in f"{one}{two}"
    assert len(key.read_bytes()) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
