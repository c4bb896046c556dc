"""The identities that instances state of their patient: how they are read, and when they contradict each other."""

from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import select, update

from storage.blobs import FileBlob
from storage.log.headers.instance_reader import scan_header
from storage.log.headers.patient_header import read_identity
from storage.records.patients import IdentityGroup, PatientIdentity, StudyIdentities
from storage.records.problems import ProblemKind
from storage.tables.database import schema
from storage.tables.problems import Problems
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, received

A = PatientIdentity("A", "", "19600102", "F")
B = PatientIdentity("B", "", "19700304", "M")


MANY = [f"{number:03}" for number in range(65)]


def header(syntax: str = ExplicitVRLittleEndian, others: Any = (), **attributes: Any) -> PatientIdentity:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.5"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    items = []
    for patient_id, issuer in others:
        items.append(Dataset())
        items[-1].PatientID, items[-1].IssuerOfPatientID = patient_id, issuer
        items[-1].TypeOfPatientID = "TEXT"
    if items:
        ds.OtherPatientIDsSequence = items
        ds["OtherPatientIDsSequence"].is_undefined_length = len(items) > 1
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian)
    return scan_header(buffer.getvalue(), syntax).patient


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("others", [[("B", "X")], [("B", "X"), ("C", "")]])
def test_every_encoding_states_the_same(syntax: str, others: list[tuple[str, str]]) -> None:
    stated = header(
        syntax,
        others,
        PatientID=" A ",
        IssuerOfPatientID="HOSPITAL",
        PatientBirthDate="19600102",
        PatientSex="F",
        OtherPatientIDs=["D", "E"],
    )
    assert stated == PatientIdentity("A", "HOSPITAL", "19600102", "F", tuple(sorted([("D", ""), ("E", ""), *others])))


@pytest.mark.parametrize(
    ("attributes", "stated"),
    [
        ({}, PatientIdentity()),
        ({"PatientID": "", "PatientSex": "U", "PatientBirthDate": "00000000"}, PatientIdentity()),
        ({"PatientBirthDate": "1960.01.02", "PatientSex": "o"}, PatientIdentity(birth_date="19600102", sex="O")),
        ({"SpecificCharacterSet": "ISO_IR 100", "PatientID": "Ä1"}, PatientIdentity("Ä1")),
        ({"SpecificCharacterSet": "ISO_IR 192", "PatientID": "Ä1"}, PatientIdentity("Ä1")),
        ({"OtherPatientIDs": MANY[:64]}, PatientIdentity(others=tuple((one, "") for one in MANY[:64]))),
        ({"OtherPatientIDs": MANY}, PatientIdentity()),  # a list of nobody's
    ],
)
def test_what_is_stated(attributes: dict[str, Any], stated: PatientIdentity) -> None:
    assert header(**attributes) == stated


def test_a_file_states_what_its_header_does(tmp_path: Path, test_data: Path) -> None:
    path = next((test_data / "mr").rglob("*.dcm"))
    content = path.read_bytes()
    meta_end = 144 + int.from_bytes(content[140:144], "little")
    syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    assert read_identity(FileBlob(path)) == scan_header(content[meta_end:], syntax).patient
    assert read_identity(FileBlob(path)).patient_id


def study(*identities: PatientIdentity, corrected: frozenset[tuple[int, int]] = frozenset()) -> StudyIdentities:
    groups = (IdentityGroup(one, 10, NOW + timedelta(seconds=n)) for n, one in enumerate(identities))
    return StudyIdentities(tuple(groups), corrected)


ISSUED, ELSEWHERE = PatientIdentity("A", "HOSPITAL"), PatientIdentity("A", "OTHER")
LISTS_A = PatientIdentity("B", others=(("A", "HOSPITAL"),))


@pytest.mark.parametrize(
    ("identities", "corrected", "told"),
    [
        ([], (), None),
        ([A], (), None),
        ([A, PatientIdentity()], (), None),
        ([A, PatientIdentity("A"), PatientIdentity("", "", "19600102"), ISSUED], (), None),
        ([A, B], (), "different patients: they contradict one another in Patient ID, Patient's Birth Date and"),
        ([A, PatientIdentity(), B], (), "different patients"),
        ([ISSUED, PatientIdentity("A"), ELSEWHERE], (), "in Issuer of Patient ID"),
        ([A, PatientIdentity("A", sex="O")], (), "in Patient's Sex"),
        ([A, PatientIdentity("A", "", "19600103")], (), "in Patient's Birth Date"),
        ([A, B], [(0, 1)], "a correction of the patient (Patient ID, Patient's Birth Date and Patient's Sex) has"),
        ([ISSUED, LISTS_A], (), "a correction of the patient (Patient ID) has reached 10 of 20"),
        ([ELSEWHERE, LISTS_A], (), "different patients"),  # the listed ID was issued by somebody else
        ([A, B, PatientIdentity("C")], [(0, 1)], "its 30 instances state different patients"),
        ([PatientIdentity("A"), A, B], [(0, 2)], "a correction of the patient"),
        ([A, PatientIdentity("A"), PatientIdentity("A", "", "19600103"), B], [(1, 3)], "different patients"),
        ([PatientIdentity(str(n)) for n in range(200)], (), "its 2000 instances state different patients"),
    ],
)  # fmt: skip
def test_the_decision(identities: list[PatientIdentity], corrected: list[tuple[int, int]], told: str | None) -> None:
    conflict = study(*identities, corrected=frozenset(corrected)).conflict()
    if told is None:
        assert conflict is None
        return
    assert conflict is not None
    assert told in conflict.text
    assert conflict.is_correction == told.startswith("a correction")
    assert "196001" not in conflict.text


def test_rows_tell_a_correction_from_a_mix_up_and_name_nobody(node: Node) -> None:
    for number in (1, 2):
        node.store(received(number, patient=A))
    node.store(received(3, patient=A, comment="", name="N"))
    node.store(received(2, patient=B, name="CORRECTED"))
    conflict = node.instances.identities(STUDY).conflict()
    assert conflict is not None
    assert (conflict.is_correction, "1 of 3 instances" in conflict.text) == (True, True)
    node.store(received(4, patient=PatientIdentity("C")))
    mixed = node.instances.identities(STUDY).conflict()
    assert mixed is not None
    assert not mixed.is_correction
    with node.database.reading() as session:
        rows = session.scalars(select(schema.SubjectRow)).all()
        assert len(rows) == 3
        text = " ".join(f"{row.digest} {row.hashes}" for row in rows)
    assert all(value not in text for value in ("19600102", "19700304", "'A'", "'F'"))


def test_an_instance_in_two_series_under_both_identities_is_being_corrected(node: Node) -> None:
    node.store(received(1, sop="1.2.99", patient=A))
    node.store(received(1, series=2, sop="1.2.99", patient=B))
    conflict = node.instances.identities(STUDY).conflict()
    assert conflict is not None
    assert conflict.is_correction


def test_a_late_report_of_another_patient_is_a_problem(node: Node) -> None:
    node.store(received(1, patient=A))
    node.route("liver")
    for number in (2, 3):
        node.store(received(number, series=2, modality="SR", patient=B))
    kinds = select(schema.ProblemRow.kind, schema.ProblemRow.study_instance_uid, schema.ProblemRow.times)
    with node.database.reading() as session:
        assert session.execute(kinds).all() == [(ProblemKind.PATIENTS_MIXED, STUDY, 1)]
    assert node.study().state == "ROUTED"
    (told,) = [text for text in node.texts() if "different patients" in text]
    assert "after the study was routed" in told


def test_instances_of_an_earlier_version_are_read_again(node: Node) -> None:
    """An earlier version kept no patient with an instance."""
    node.store(received(1, patient=A))
    node.store(received(2, patient=A))
    with node.database.session() as session:
        session.execute(update(schema.InstanceRow).values(subject_id=None))
    node.store(received(2, patient=B, name="CORRECTED"))
    conflict = node.instances.identities(STUDY).conflict()
    assert conflict is not None
    assert (conflict.is_correction, "1 of 2 instances" in conflict.text) == (True, True)
    with node.database.reading() as session:
        assert None not in session.scalars(select(schema.InstanceRow.subject_id)).all()


def test_a_refused_study_has_a_problem_until_it_is_routed(node: Node) -> None:
    node.store(received(1, patient=A))
    node.route("liver")
    node.store(received(2, patient=B))
    conflict = node.instances.identities(STUDY).conflict()
    assert conflict is not None
    revision = node.complete().revision
    Problems(node.database).open(ProblemKind.MACHINE_TROUBLE, STUDY, "the disk hung", STUDY)
    assert node.studies.refuse(STUDY, revision, conflict, "not analysed", NOW)
    assert (node.study().state, node.study().reason) == ("IGNORED", "not analysed")
    assert [job.state for job in node.jobs.list()] == ["CANCELLED"]
    kinds = select(schema.ProblemRow.kind, schema.ProblemRow.study_instance_uid)
    with node.database.reading() as session:
        assert session.execute(kinds).all() == [(ProblemKind.PATIENTS_MIXED, STUDY)]
    assert node.studies.reroute(STUDY)
    assert node.studies.ignore(STUDY, revision, "nothing applies", UNDECIDED, NOW)
    with node.database.reading() as session:
        assert session.execute(kinds).all() == []


def test_birth_dates_and_sexes_of_studies_differ_only_under_one_key() -> None:
    a, b, unknown = (
        StudyIdentities((IdentityGroup(identity, 1, NOW),), key="k") for identity in (A, B, PatientIdentity("A"))
    )
    assert a.differ(b)
    assert not a.differ(a)
    assert not a.differ(unknown)
    assert not a.differ(StudyIdentities(b.groups, key="another"))
