"""Files of release 0.1 keep their rows, get new ones if the database was lost, and meet what comes again."""

from pathlib import Path

import pytest
from sqlalchemy import insert

from storage.blobs import FileBlob
from storage.log.filing.release01 import OldFiles
from storage.records.instances import Stored
from storage.records.problems import ProblemKind
from storage.records.studies import StudyState
from storage.tables.commitments import Commitments
from storage.tables.database import schema
from tests.storage.node import NOW, STUDY, Node, Sent, received


def old_files(node: Node) -> OldFiles:
    return OldFiles(node.database, node.instances, node.root)


def put(node: Node, sent: Sent, name: str = "") -> Path:
    """Files an instance as release 0.1 did."""
    i = sent.instance
    path = node.root / i.study_instance_uid / i.series_instance_uid / (name or f"{i.sop_instance_uid}.dcm")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sent.file)
    return path


def list_as_old(node: Node, sent: Sent) -> Path:
    """Files an instance, and gives it a row as release 0.1 did: without hashes, kept header or address."""
    path, i = put(node, sent), sent.instance
    row = {
        "sop_instance_uid": i.sop_instance_uid, "series_instance_uid": i.series_instance_uid,
        "study_instance_uid": i.study_instance_uid, "sop_class_uid": i.sop_class_uid,
        "transfer_syntax_uid": i.transfer_syntax_uid, "modality": i.modality, "size": len(sent.file),
        "sha256": FileBlob(path).checksum, "received_at": NOW, "revision": 1, "facts": {},
    }  # fmt: skip
    study = {
        "study_instance_uid": i.study_instance_uid, "revision": 1, "state": StudyState.RECEIVING, "reason": "",
        "instances": 1, "revision_started_at": NOW, "first_received_at": NOW, "last_received_at": NOW,
    }  # fmt: skip
    with node.database.session() as session:
        session.execute(insert(schema.StudyRow).values(study))
        session.execute(insert(schema.InstanceRow).values(row))
    return path


def content(node: Node, sop_instance_uid: str) -> bytes:
    found = node.instance(sop_instance_uid)
    assert found is not None
    with found.blob.open() as file:
        return file.read()


def test_an_old_row_leads_to_its_file(node: Node) -> None:
    sent = received()
    list_as_old(node, sent)
    found = node.instance(sent.instance.sop_instance_uid)
    assert found is not None
    assert found.blob.is_intact()
    assert content(node, found.sop_instance_uid) == sent.file
    assert node.instances.kept_headers(STUDY) == {}
    assert list(old_files(node).without_row()) == []


@pytest.mark.parametrize("left", ["whole", "damaged", "gone"])
def test_what_comes_again_is_a_duplicate_and_mends_a_damaged_file(node: Node, left: str) -> None:
    sent = received()
    path = list_as_old(node, sent)
    if left == "damaged":
        path.write_bytes(sent.file[:-2] + b"xx")
    elif left == "gone":
        path.unlink()
    assert node.store(sent) is Stored.DUPLICATE
    assert content(node, sent.instance.sop_instance_uid) == sent.file
    found = node.instance(sent.instance.sop_instance_uid)
    assert found is not None
    assert (str(found.blob) == str(path)) == (left == "whole")


def test_an_old_file_is_compared_by_its_content(node: Node) -> None:
    list_as_old(node, received())
    assert node.store(received(name="CORRECTED")) is Stored.VERSION
    assert content(node, f"{STUDY}.1.1") == received(name="CORRECTED").file
    assert node.store(received(pixels=b"other pixels"[:4])) is Stored.CONFLICT


def test_files_without_rows_get_them(node: Node) -> None:
    put(node, received(1))
    put(node, received(1, name="CORRECTED"), f"{STUDY}.1.1-0123456789abcdef.dcm")
    put(node, received(2))
    put(node, received(1, study="1.2.4", modality="SR"))
    assert old_files(node).reindex() == 4
    assert list(old_files(node).without_row()) == []
    assert old_files(node).reindex() == 0
    assert content(node, f"{STUDY}.1.1") == received(1, name="CORRECTED").file
    assert all(i.blob.is_intact() for i in node.instances.all())
    assert {e.study_instance_uid: e.instances for e in node.studies.evidence()} == {STUDY: 2, "1.2.4": 1}
    assert node.instances.kept_headers(STUDY).keys() == {
        (f"{STUDY}.1.{number}", f"{STUDY}.1", STUDY) for number in (1, 2)
    }


def test_a_file_whose_uids_stand_far_inside_gets_a_row(node: Node) -> None:
    sent = received(1)
    before, uid, after = sent.dataset.partition(b"\x20\x00\x0d\x00UI")
    private = b"\x09\x00\x10\x10OB\0\0" + (9 * 2**20).to_bytes(4, "little") + bytes(9 * 2**20)
    put(node, Sent(sent.instance, before + private + uid + after))
    assert old_files(node).reindex() == 1


def test_nothing_was_ever_filed(node: Node) -> None:
    assert old_files(node).reindex() == 0
    assert not node.root.exists()


def test_files_that_cannot_be_read_are_told_of_once(node: Node) -> None:
    good = list_as_old(node, received(1)).read_bytes()
    folder = node.root / STUDY / f"{STUDY}.1"
    (folder / f"{STUDY}.1.2.dcm").write_bytes(b"")
    (folder / f"{STUDY}.1.3.dcm").write_bytes(good[:200])
    (folder / f"{STUDY}.1.4.dcm").write_bytes(good)  # another instance than its name says
    (folder / f"{STUDY}.1.5.dcm").mkdir()
    (folder / "notes.txt").touch()
    for _ in range(2):
        assert old_files(node).reindex() == 0
    warnings = [text for text in node.texts() if text.startswith("warning")]
    assert len(warnings) == 4
    assert not any("SECRET" in text for text in warnings)
    assert node.study().instances == 1


def test_an_old_file_with_the_uid_of_another_image_is_kept_aside(node: Node) -> None:
    node.store(received(sop="1.2.99"))
    path = put(node, received(series=2, sop="1.2.99", pixels=b"\4\3\2\1"))
    old_files(node).reindex()
    (aside,) = node.instances.kept_aside()
    assert aside.is_quarantined
    assert aside.place == str(path.relative_to(node.root))
    assert Commitments(node.database).aside(["1.2.99"]) == {"1.2.99"}


def test_what_release_01_kept_aside_is_told_again(node: Node) -> None:
    quarantine, unfiled = node.root.parent / "quarantine", node.root.parent / "unfiled"
    kept = quarantine / STUDY / f"{STUDY}.1" / "1.2.99.0123456789abcdef.dcm"
    for path in (kept, unfiled / "receive-0-1-x.dcm"):
        path.parent.mkdir(parents=True)
        path.touch()
    for _ in range(2):
        old_files(node).note_aside()
    with node.database.reading() as session:
        rows = session.execute(schema.ProblemRow.__table__.select()).all()
    assert {(row.kind, row.study_instance_uid, row.times) for row in rows} == {
        (ProblemKind.QUARANTINED, STUDY, 1), (ProblemKind.UNFILED, "", 1),
    }  # fmt: skip
    assert Commitments(node.database).aside(["1.2.99"]) == {"1.2.99"}
