"""Receiving: what is stored, what is not, what a crash leaves, and when a study opens again."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from storage.errors import Permanent, Retriable, StorageFull
from storage.log.instances import InstanceStore
from storage.log.patient_key import PATIENT_KEY
from storage.records.evidence import AssociationEnd
from storage.records.instances import Facts, Stored
from storage.records.studies import StudyState
from storage.tables.database.connection import Database
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, Sent, objects, only_mr, received

KEYS = count()


def encoded(sent: Sent, ds: Dataset) -> Sent:
    """`ds` in its transfer syntax, sent as `sent` was."""
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    content = file.getvalue()
    instance = replace(sent.instance, transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID))
    return Sent(instance, content[144 + int.from_bytes(content[140:144], "little") :])


def dataset_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def files(folder: Path) -> list[str]:
    found = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != PATIENT_KEY)


# -- storing -----------------------------------------------------------------------------------------------------------


def test_a_new_instance_is_a_file_and_a_row(node: Node) -> None:
    one = received(1)
    assert node.store(one) is Stored.NEW
    stored = node.instance(one.instance.sop_instance_uid)
    assert stored is not None
    assert stored.blob.path == node.root / STUDY / f"{STUDY}.1" / f"{STUDY}.1.1.dcm"
    assert dataset_bytes(stored.blob.path) == one.dataset
    assert stored.blob.size == stored.blob.path.stat().st_size
    assert (stored.modality, stored.revision) == ("MR", 1)
    assert dcmread(stored.blob.path).file_meta.SourceApplicationEntityTitle == "MR1"
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 1, 1)
    assert files(node.root.parent) == [f"instances/{STUDY}/{STUDY}.1/{STUDY}.1.1.dcm"]


def test_series_group_the_instances(node: Node) -> None:
    for number in (2, 1):
        node.store(received(number, series=2, modality="SR"))
        node.store(received(number, series=1))
    first, second = node.instances.series(STUDY)
    assert (first.series_instance_uid, first.modality) == (f"{STUDY}.1", "MR")
    assert (second.series_instance_uid, second.modality) == (f"{STUDY}.2", "SR")
    assert [i.sop_instance_uid for i in first.instances] == [f"{STUDY}.1.2", f"{STUDY}.1.1"]  # as they came
    assert len(node.instances.instances(STUDY)) == 4
    assert node.instances.series("9.9") == []
    assert node.instance("9.9") is None


def test_the_same_bytes_again_are_a_duplicate(node: Node) -> None:
    node.store(received())
    assert node.store(received()) is Stored.DUPLICATE
    assert node.study().instances == 1
    assert len(files(node.root)) == 1


def test_another_image_never_replaces(node: Node) -> None:
    first, other = received(pixels=b"\1\1\1\1"), received(pixels=b"\2\2\2\2")
    node.store(first)
    for _ in range(2):
        assert node.store(other) is Stored.CONFLICT
    stored = node.instance(first.instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob.path) == first.dataset
    (kept,) = (node.root.parent / "quarantine").rglob("*.dcm")
    assert dataset_bytes(kept) == other.dataset
    assert sum(text.startswith("warning") for text in node.texts()) == 1
    assert node.study().instances == 1


def test_another_geometry_is_another_image(node: Node) -> None:
    def at(z: float) -> Sent:
        sent = received()
        ds = dcmread(BytesIO(sent.file))
        ds.ImagePositionPatient = [0, 0, z]
        return encoded(sent, ds)

    node.store(at(1))
    assert node.store(at(2)) is Stored.CONFLICT


def test_a_corrected_name_is_a_version_that_is_used(node: Node) -> None:
    node.queue("liver")
    first, corrected = received(1), received(1, name="CORRECTED^NAME")
    assert node.store(corrected) is Stored.VERSION
    stored = node.instance(first.instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob.path) == corrected.dataset
    assert dataset_bytes(node.root / STUDY / f"{STUDY}.1" / f"{STUDY}.1.1.dcm") == first.dataset
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 2, 1)
    assert stored.revision == 2
    for again in (corrected, first):  # neither changes anything any more
        assert node.store(again) is Stored.DUPLICATE
    assert node.instance(first.instance.sop_instance_uid) == stored
    assert len(files(node.root)) == 2
    assert not any("SECRET" in text or "CORRECTED" in text for text in node.texts())


def test_versions_in_one_batch(node: Node) -> None:
    sent = [received(1), received(1, name="B"), received(1), received(1, name="C"), received(1, name="B")]
    filing = node.instances.filing()
    for one in sent:
        filing.instance(one.instance, one.file)
    assert filing.commit() == [Stored.NEW, *[Stored.VERSION] * 4]
    stored = node.instance(sent[0].instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob.path) == sent[4].dataset
    assert node.study().instances == 1


def test_an_older_version_that_is_sent_again_is_used(node: Node) -> None:
    first, other = received(1), received(1, name="B")
    node.store(first)
    node.store(other)
    node.route("liver")
    again = received(1)
    assert node.store(again) is Stored.VERSION
    for replayed in (first, other, again):  # a journal that is filed once more after a crash
        assert node.store(replayed) is Stored.DUPLICATE
    stored = node.instance(first.instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob.path) == first.dataset
    assert (node.study().state, node.study().revision, len(files(node.root))) == (StudyState.RECEIVING, 2, 2)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless, DeflatedExplicitVRLittleEndian])
def test_the_same_image_in_another_transfer_syntax_is_a_duplicate(node: Node, syntax: UID) -> None:
    first = received(pixels=bytes(range(256)) * 16, size=64)
    node.store(first)
    ds = dcmread(BytesIO(first.file))
    if syntax.is_compressed and not syntax.is_deflated:
        ds.compress(syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    other = encoded(first, ds)
    assert other.dataset != first.dataset
    assert node.store(other) is Stored.DUPLICATE
    assert len(files(node.root.parent)) == 1


def test_other_pixels_under_the_uid_of_another_series_are_a_conflict(node: Node) -> None:
    node.store(received(sop="1.2.99"))
    other = received(series=2, sop="1.2.99", pixels=b"\4\3\2\1")
    assert node.store(other) is Stored.CONFLICT
    assert len(files(node.root)) == 1
    (kept,) = (node.root.parent / "quarantine").rglob("*.dcm")
    assert dataset_bytes(kept) == other.dataset
    elsewhere = received(study="1.2.4", sop="1.2.99", pixels=b"\4\3\2\1")
    assert node.store(elsewhere) is Stored.CONFLICT
    assert node.studies.get("1.2.4") is None
    (warning,) = node.texts("1.2.4")
    assert f"in series {STUDY}.1 of study {STUDY}; the new one is in quarantine" in warning


@pytest.mark.parametrize("uid", ["", "..", ".", "1/2", "../1.2", "1.2\n", "1.2\0", "a.b", "1." * 33, "١.٢"])
@pytest.mark.parametrize(
    "field", ["sop_instance_uid", "series_instance_uid", "study_instance_uid", "sop_class_uid", "transfer_syntax_uid"]
)
def test_a_uid_that_is_no_file_name_is_refused(tmp_path: Path, uid: str, field: str) -> None:
    filing = InstanceStore(Database("sqlite://"), tmp_path / "instances", only_mr).filing()
    with pytest.raises(Permanent, match="UID"):
        filing.instance(replace(received().instance, **{field: uid}), received().file)
    assert list(tmp_path.iterdir()) == []


def test_a_strange_modality_is_stored(node: Node) -> None:
    sent = received()
    strange = Sent(replace(sent.instance, modality="M\0R" + "x" * 40), sent.dataset)
    assert node.store(strange) is Stored.NEW
    assert node.instances.series(STUDY)[0].modality == "MR" + "x" * 14


def test_a_full_disk_leaves_neither_file_nor_row(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(StorageFull):
            node.store(received())
    assert files(node.root) == []
    assert node.studies.get(STUDY) is None
    assert node.store(received()) is Stored.NEW


def test_a_busy_database_loses_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch may be committed again; and the file that is there already gets its row from another one too."""

    def busy(*_: object, **__: object) -> None:
        raise Retriable("busy")

    filing = node.instances.filing()
    filing.instance(received().instance, received().file)
    with monkeypatch.context() as patch:
        patch.setattr(node.database, "session", busy)
        with pytest.raises(Retriable):
            filing.commit()
    assert node.store(received()) is Stored.NEW
    assert filing.commit() == [Stored.DUPLICATE]
    assert node.study().instances == 1


def test_a_damaged_file_is_restored_by_the_same_instance(node: Node) -> None:
    """What a loss of power leaves of a file that the journal still has."""
    sent = received()
    node.store(sent)
    (path,) = node.root.rglob("*.dcm")
    path.write_bytes(sent.file[:-10] + bytes(10))
    assert node.store(sent) is Stored.DUPLICATE
    assert path.read_bytes() == sent.file
    path.unlink()
    node.store(sent)
    assert path.read_bytes() == sent.file


def unindexed(node: Node, content: bytes) -> Path:
    path = node.root / STUDY / f"{STUDY}.1" / f"{STUDY}.1.1.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("left", ["", "short", "zeros", "hole"])
def test_what_a_loss_of_power_left_is_written_again(node: Node, left: str) -> None:
    sent = received(pixels=bytes(range(1, 251)) * 80, size=100)
    whole = sent.file
    torn = {
        "": b"", "short": whole[:5000], "zeros": bytes(len(whole)),
        "hole": whole[:4096] + bytes(4096) + whole[8192:],
    }[left]  # fmt: skip
    path = unindexed(node, torn)
    assert node.store(sent) is Stored.NEW
    assert path.read_bytes() == whole
    assert list((node.root.parent / "quarantine").rglob("*.dcm")) == []


def test_another_file_that_was_never_indexed_is_set_aside(node: Node) -> None:
    sent, other = received(), received(pixels=rb"\9\9\9\9").file
    path = unindexed(node, other)
    assert node.store(sent) is Stored.NEW
    assert path.read_bytes() == sent.file
    (kept,) = (node.root.parent / "quarantine" / "aside").iterdir()
    assert kept.read_bytes() == other


@pytest.mark.parametrize(("value", "priority"), [("STAT", 2), ("HIGH", 1), ("ROUTINE", 0), (None, 0)])
def test_the_priority_of_a_study_is_that_of_its_most_urgent_instance(
    node: Node, value: str | None, priority: int
) -> None:
    for number, facts in ((1, Facts()), (2, Facts(priority=value)), (3, Facts(priority="LOW", frames=7))):
        sent = received(number)
        node.store(Sent(replace(sent.instance, facts=facts), sent.dataset))
    assert node.study().priority == priority
    last = node.instance(f"{STUDY}.1.3")
    assert last is not None
    assert last.facts == Facts(priority="LOW", frames=7)


# -- at once -----------------------------------------------------------------------------------------------------------


def test_threads_store_the_same_study_at_once(node: Node) -> None:
    """Eight associations send overlapping instances; each is stored once and counted once."""
    results: list[Stored] = []

    def send(first: int) -> None:
        association = node.open_association(str(threading.get_ident()))
        for number in range(first, first + 10):
            results.append(node.store(received(number, association=association)))
        node.end_association(association, AssociationEnd.RELEASED)

    threads = [threading.Thread(target=send, args=(first,)) for first in (1, 1, 6, 6, 11, 11, 1, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(results) == {Stored.NEW: 20, Stored.DUPLICATE: 60}
    assert node.study().instances == len(node.instances.instances(STUDY)) == len(files(node.root)) == 20
    (evidence,) = node.studies.evidence()
    assert (evidence.open_associations, evidence.aborted_associations) == (0, 0)


def test_different_images_under_one_uid_in_one_batch(node: Node) -> None:
    """Whoever is first stands; the others are all in quarantine."""
    sent = [received(n, pixels=letter * 4) for n in range(1, 11) for letter in (b"a", b"b", b"c")]
    filing = node.instances.filing()
    for one in sent:
        filing.instance(one.instance, one.file)
    assert Counter(filing.commit()) == {Stored.NEW: 10, Stored.CONFLICT: 20}
    kept = list((node.root.parent / "quarantine").rglob("*.dcm"))
    assert len(kept) == 20
    here = {dataset_bytes(i.blob.path) for i in node.instances.instances(STUDY)}
    assert here == {s.dataset for s in sent[::3]}
    assert {dataset_bytes(p) for p in kept} | here == {s.dataset for s in sent}


# -- late instances ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [StudyState.COMPLETE, StudyState.ROUTED, StudyState.IGNORED])
def test_a_late_image_opens_a_revision(node: Node, state: StudyState) -> None:
    node.store(received(1))
    node.complete()
    if state is StudyState.ROUTED:
        assert node.studies.route(STUDY, 1, "applies", [], UNDECIDED, NOW)
    elif state is StudyState.IGNORED:
        assert node.studies.ignore(STUDY, 1, "nothing applies", UNDECIDED, NOW)
    assert node.store(received(2)) is Stored.NEW
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 2, 2)
    assert "late MR instance" in study.reason
    assert any("revision 2" in text for text in node.texts())
    assert [i.revision for i in node.instances.instances(STUDY)] == [1, 2]
    (evidence,) = node.studies.evidence()
    assert (evidence.revision, evidence.instances) == (2, 2)
    assert evidence.revision_started_at == evidence.last_received_at == study.last_received_at
    node.store(received(3))
    assert node.study().revision == 2


def test_what_feeds_nothing_reopens_nothing(node: Node) -> None:
    node.queue("liver")
    assert node.store(received(1, series=2, modality="SR")) is Stored.NEW
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.ROUTED, 1, 2)


@pytest.mark.parametrize("pixels", [b"\1\2\3\4", b"\4\4\4\4"])
def test_what_comes_again_reopens_nothing(node: Node, pixels: bytes) -> None:
    node.queue("liver")
    before = node.study()
    node.store(received(pixels=pixels))
    assert node.study() == before


def test_a_result_that_comes_back_reopens_nothing(node: Node) -> None:
    job = node.deliver("PACS")
    own = objects(job)[0].sop_instance_uid
    assert node.store(received(series=3, sop=own)) is Stored.NEW  # a modality that could feed an input
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.ROUTED, 1, 2)


def test_a_result_alone_makes_no_study_to_compute(node: Node) -> None:
    """It comes back into a study that is not known here, changed by the PACS for instance."""
    own = objects(node.deliver("PACS"))[0].sop_instance_uid
    assert node.store(received(study="1.9", sop=own)) is Stored.NEW
    assert node.study("1.9").state is StudyState.IGNORED
    node.store(received(study="1.9"))
    study = node.study("1.9")
    assert (study.state, study.revision) == (StudyState.RECEIVING, 2)


def test_a_study_of_reports_alone_is_decided_on_like_any_other(node: Node) -> None:
    node.store(received(modality="SR"))
    node.complete()
    assert node.studies.ignore(STUDY, 1, "nothing applies", UNDECIDED, NOW)
    assert node.study().reason == "nothing applies"


# -- associations ------------------------------------------------------------------------------------------------------


def test_evidence_knows_the_associations_of_its_revision(node: Node) -> None:
    one = node.open_association(str(next(KEYS)), "MR1", "receive-0")
    two = node.open_association(str(next(KEYS)), "MR2", "receive-0")
    node.store(received(1, association=one))
    node.store(received(2, association=two))
    (evidence,) = node.studies.evidence()
    assert (evidence.open_associations, evidence.aborted_associations) == (2, 0)
    assert evidence.last_association_ended_at is None
    node.end_association(one, AssociationEnd.RELEASED)
    node.end_association(two, AssociationEnd.ABORTED)
    (evidence,) = node.studies.evidence()
    assert (evidence.open_associations, evidence.aborted_associations) == (0, 1)
    assert evidence.last_association_ended_at is not None
    assert evidence.last_association_ended_at >= evidence.last_received_at
    assert "received: association with MR1 released" in node.texts()
    assert "warning: association with MR2 aborted" in node.texts()
    node.complete()
    three = node.open_association(str(next(KEYS)), "MR1", "receive-0")
    node.store(received(3, association=three))
    (evidence,) = node.studies.evidence()
    assert (evidence.revision, evidence.open_associations, evidence.aborted_associations) == (2, 1, 0)


def test_a_sender_that_repeats_itself_is_at_work(node: Node) -> None:
    """After an abort the scanner sends everything again: until it gets further, all it brings are duplicates."""
    one = node.open_association(str(next(KEYS)), "MR1", "receive-0")
    node.store(received(association=one))
    node.end_association(one, AssociationEnd.ABORTED)
    (before,) = node.studies.evidence()
    two = node.open_association(str(next(KEYS)), "MR1", "receive-0")
    assert node.store(received(association=two)) is Stored.DUPLICATE
    (evidence,) = node.studies.evidence()
    assert evidence.last_received_at > before.last_received_at
    assert (evidence.open_associations, evidence.instances) == (1, 1)


def test_a_receiver_that_died_leaves_aborted_associations(node: Node) -> None:
    dead = node.open_association(str(next(KEYS)), "MR1", "receive-0")
    other = node.open_association(str(next(KEYS)), "MR1", "receive-1")
    node.store(received(1, association=dead))
    node.store(received(2, association=other))
    assert node.instances.abort_open_associations("receive-0", datetime.now(UTC)) == 1
    assert node.instances.abort_open_associations("receive-0", datetime.now(UTC)) == 0
    (evidence,) = node.studies.evidence()
    assert (evidence.open_associations, evidence.aborted_associations) == (1, 1)
    node.end_association(dead, AssociationEnd.RELEASED)  # too late to change it
    (evidence,) = node.studies.evidence()
    assert evidence.aborted_associations == 1


# -- after a crash -----------------------------------------------------------------------------------------------------


def _die_before_the_row(url: str, root: Path) -> None:
    node = Node(Database(url), root)
    node.store(received(1))
    node.database.session = lambda **_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
    node.store(received(2))


def test_killed_between_file_and_row(node: Node, url: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_before_the_row, args=(url, node.root))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(files(node.root)) == 2
    assert node.study().instances == 1
    assert node.instances.reindex() == 1
    assert node.study().instances == 2
    lost = node.instance(f"{STUDY}.1.2")
    assert lost is not None
    assert (lost.modality, lost.transfer_syntax_uid) == ("MR", received().instance.transfer_syntax_uid)
    assert dataset_bytes(lost.blob.path) == received(2).dataset
    assert node.instances.reindex() == 0
    assert node.store(received(2)) is Stored.DUPLICATE


def _die_before_the_name(url: str, root: Path) -> None:
    os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Node(Database(url), root).store(received(1))


def test_killed_before_the_file_has_its_name(node: Node, url: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_before_the_name, args=(url, node.root))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = node.root.rglob(".incoming/*")
    os.utime(left, (0, 0))
    assert node.instances.reindex() == 0
    assert files(node.root) == []
    assert node.store(received(1)) is Stored.NEW


def test_a_lost_index_is_made_anew_from_uids_far_inside_a_file(node: Node, tmp_path: Path) -> None:
    sent = received(1)
    before, uid, after = sent.dataset.partition(b"\x20\x00\x0d\x00UI")
    private = b"\x09\x00\x10\x10OB\0\0" + (9 * 2**20).to_bytes(4, "little") + bytes(9 * 2**20)
    node.store(replace(sent, dataset=before + private + uid + after))
    fresh = Node(Database(f"sqlite:///{tmp_path / 'fresh.sqlite'}"), node.root)
    fresh.database.upgrade()
    assert fresh.instances.reindex() == 1
    fresh.database.close()


def test_a_lost_index_is_made_anew(node: Node, tmp_path: Path) -> None:
    for number in range(1, 4):
        node.store(received(number))
        node.store(received(number, study="1.2.4", modality="SR"))
    node.store(received(name="CORRECTED^NAME"))
    fresh = Node(Database(f"sqlite:///{tmp_path / 'fresh.sqlite'}"), node.root)
    fresh.database.upgrade()
    assert fresh.instances.reindex() == 7

    def known(n: Node) -> list[tuple[str, ...]]:
        return sorted(
            (
                i.sop_instance_uid,
                i.sop_class_uid,
                i.modality,
                i.blob.checksum,
                str(i.blob),
                i.transfer_syntax_uid,
                str(i.blob.size),
            )
            for uid in (STUDY, "1.2.4")
            for i in n.instances.instances(uid)
        )

    assert known(fresh) == known(node)
    assert {e.study_instance_uid: e.instances for e in fresh.studies.evidence()} == {STUDY: 3, "1.2.4": 3}


def test_an_index_that_is_complete_is_not_read_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.store(received())
    monkeypatch.setattr("storage.log.instances._read", lambda path: pytest.fail("a file was read"))
    assert node.instances.reindex() == 0


def test_nothing_was_ever_received(node: Node) -> None:
    assert node.instances.reindex() == 0
    assert not node.root.exists()


def test_a_lost_late_instance_opens_its_revision(node: Node) -> None:
    node.queue("liver")
    path = node.root / STUDY / f"{STUDY}.1" / f"{STUDY}.1.2.dcm"
    path.write_bytes(received(2).file)
    assert node.instances.reindex() == 1
    assert (node.study().state, node.study().revision) == (StudyState.RECEIVING, 2)


def test_files_that_cannot_be_read_are_told_of_once(node: Node) -> None:
    node.store(received(1))
    folder = node.root / STUDY / f"{STUDY}.1"
    good = (folder / f"{STUDY}.1.1.dcm").read_bytes()
    (folder / f"{STUDY}.1.2.dcm").write_bytes(b"")
    (folder / f"{STUDY}.1.3.dcm").write_bytes(good[:200])
    (folder / f"{STUDY}.1.4.dcm").write_bytes(good)  # another instance than its name says
    (folder / f"{STUDY}.1.5.dcm").mkdir()
    (folder / "notes.txt").touch()
    for _ in range(2):
        assert node.instances.reindex() == 0
    warnings = [text for text in node.texts() if text.startswith("warning")]
    assert len(warnings) == 4
    assert not any("SECRET" in text for text in warnings)
    assert node.study().instances == 1


def test_a_conflict_that_a_crash_left_goes_to_quarantine(node: Node) -> None:
    node.store(received(sop="1.2.99"))
    other = received(series=2, sop="1.2.99", pixels=b"\4\3\2\1")
    path = node.root / STUDY / f"{STUDY}.2" / "1.2.99.dcm"
    path.parent.mkdir()
    path.write_bytes(other.file)
    fresh = Node(node.database, node.root)
    fresh.instances.reindex()
    assert not path.exists()
    (kept,) = (node.root.parent / "quarantine").rglob("*.dcm")
    assert dataset_bytes(kept) == other.dataset
