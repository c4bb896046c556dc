"""Filing: what gets a row, what does not, and when a study opens again."""

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
from sqlalchemy import func, select

from storage.blobs import Blob
from storage.errors import Retriable, Unfileable
from storage.log.filing.rows import address_in
from storage.log.instances import InstanceStore
from storage.log.segments.store import Segments
from storage.records.evidence import AssociationEnd
from storage.records.instances import Address, Facts, Stored
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, Sent, objects, only_mr, received, sent_as

KEYS = count()


def encoded(sent: Sent, ds: Dataset) -> Sent:
    """`ds` in its transfer syntax, sent as `sent` was."""
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    content = file.getvalue()
    instance = replace(sent.instance, transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID))
    return sent_as(instance, content[144 + int.from_bytes(content[140:144], "little") :])


def dataset_bytes(blob: Blob) -> bytes:
    with blob.open() as file:
        content = file.read()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def versions(node: Node) -> int:
    """How many versions are listed beside the only one of most instances."""
    with node.database.reading() as session:
        return session.scalars(select(func.count()).select_from(schema.InstanceVersionRow)).one()


def quarantined(node: Node) -> list[bytes]:
    """The datasets in quarantine."""
    segments = Segments(node.journals)
    with node.database.reading() as session:
        statement = select(schema.AsideRow, schema.SegmentRow).join(
            schema.SegmentRow, schema.SegmentRow.id == schema.AsideRow.segment_id
        )
        addresses = [address_in(row, segment) for row, segment in session.execute(statement)]
    return [dataset_bytes(segments.blob(address, "")) for address in addresses if address]


# -- storing -----------------------------------------------------------------------------------------------------------


def test_a_new_instance_is_a_frame_and_a_row(node: Node) -> None:
    one = received(1)
    assert node.store(one) is Stored.NEW
    stored = node.instance(one.instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob) == one.dataset
    assert (stored.blob.size, stored.blob.checksum) == (len(one.file), one.instance.hashes.checksum)
    assert stored.blob.is_intact()
    assert (stored.modality, stored.revision) == ("MR", 1)
    with stored.blob.open() as file:
        assert dcmread(file).file_meta.SourceApplicationEntityTitle == "MR1"
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 1, 1)
    assert not node.root.exists()


def test_kept_headers_are_those_of_the_receiver(node: Node) -> None:
    """Also if the series has headers that share little, or has hundreds."""
    sent = [received(n, comment="x" * (n % 50) * 3) for n in range(1, 301)]
    sent += [received(n, series=2, modality="SR", comment=str(n) * 300) for n in range(1, 4)]
    filing = node.instances.filing()
    for one in sent[:150]:
        node.add(filing, one)
    filing.commit()
    for one in sent[150:]:
        node.add(filing, one)
    filing.commit()
    found = node.instances.kept_headers(STUDY)
    assert {place.sop_instance_uid: kept for place, kept in found.items()} == {
        one.instance.sop_instance_uid: one.kept for one in sent
    }
    with node.database.reading() as session:
        stored = session.execute(select(func.sum(func.length(schema.InstanceRow.kept)), func.count())).one()
        shared = session.scalars(select(func.count()).select_from(schema.SharedHeaderRow)).one()
    assert stored[0] / stored[1] < 100
    assert shared < 10


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


def test_another_image_never_replaces(node: Node) -> None:
    first, other = received(pixels=b"\1\1\1\1"), received(pixels=b"\2\2\2\2")
    node.store(first)
    for _ in range(2):
        assert node.store(other) is Stored.CONFLICT
    stored = node.instance(first.instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob) == first.dataset
    assert quarantined(node) == [other.dataset]
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
    assert dataset_bytes(stored.blob) == corrected.dataset
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 2, 1)
    assert stored.revision == 2
    for again in (corrected, first):  # neither changes anything any more
        assert node.store(again) is Stored.DUPLICATE
    assert node.instance(first.instance.sop_instance_uid) == stored
    assert versions(node) == 2
    assert not any("SECRET" in text or "CORRECTED" in text for text in node.texts())


def test_versions_in_one_batch(node: Node) -> None:
    sent = [received(1), received(1, name="B"), received(1), received(1, name="C"), received(1, name="B")]
    filing = node.instances.filing()
    for one in sent:
        node.add(filing, one)
    assert filing.commit() == [Stored.NEW, *[Stored.VERSION] * 4]
    stored = node.instance(sent[0].instance.sop_instance_uid)
    assert stored is not None
    assert dataset_bytes(stored.blob) == sent[4].dataset
    assert node.study().instances == 1


def test_an_older_version_that_another_peer_sends_is_read_as_it_lies(node: Node) -> None:
    """The title of the peer is a part of the file, whose length differs then."""
    first = received(1)
    node.store(first)
    node.store(received(1, name="CORRECTED"))
    again = Sent(replace(first.instance, source_ae_title="WORKSTATION", received_at=datetime.now(UTC)), first.dataset)
    assert len(again.file) != len(first.file)
    assert node.store(again) is Stored.VERSION
    (found,) = node.instances.instances(STUDY)
    assert found.blob.open().read() == first.file
    assert found.blob.is_intact()


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
    assert dataset_bytes(stored.blob) == first.dataset
    assert (node.study().state, node.study().revision, versions(node)) == (StudyState.RECEIVING, 2, 2)


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
    assert (versions(node), quarantined(node)) == (0, [])


def test_other_pixels_under_the_uid_of_another_series_are_a_conflict(node: Node) -> None:
    node.store(received(sop="1.2.99"))
    other = received(series=2, sop="1.2.99", pixels=b"\4\3\2\1")
    assert node.store(other) is Stored.CONFLICT
    assert len(list(node.instances.all())) == 1
    assert quarantined(node) == [other.dataset]
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
    filing = InstanceStore(Database("sqlite://"), tmp_path / "journal", tmp_path / "instances", only_mr).filing()
    with pytest.raises(Unfileable, match="UID"):
        filing.instance(replace(received().instance, **{field: uid}), Address("receive-0", 1, 0, 0, 0))
    assert len(filing) == 0


def test_a_strange_modality_is_stored(node: Node) -> None:
    sent = received()
    strange = replace(sent, instance=replace(sent.instance, modality="M\0R" + "x" * 40))
    assert node.store(strange) is Stored.NEW
    assert node.instances.series(STUDY)[0].modality == "MR" + "x" * 14


def test_a_busy_database_loses_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Retriable("busy")

    filing = node.instances.filing()
    node.add(filing, received())
    with monkeypatch.context() as patch:
        patch.setattr(node.database, "session", busy)
        with pytest.raises(Retriable):
            filing.commit()
    assert filing.commit() == [Stored.NEW]
    assert filing.commit() == []
    assert node.study().instances == 1


@pytest.mark.parametrize(("value", "priority"), [("STAT", 2), ("HIGH", 1), ("ROUTINE", 0), (None, 0)])
def test_the_priority_of_a_study_is_that_of_its_most_urgent_instance(
    node: Node, value: str | None, priority: int
) -> None:
    for number, facts in ((1, Facts()), (2, Facts(priority=value)), (3, Facts(priority="LOW", frames=7))):
        sent = received(number)
        node.store(replace(sent, instance=replace(sent.instance, facts=facts)))
    assert node.study().priority == priority
    last = node.instance(f"{STUDY}.1.3")
    assert last is not None
    assert last.facts == Facts(priority="LOW", frames=7)


def test_different_images_under_one_uid_in_one_batch(node: Node) -> None:
    """Whoever is first stands; the others are all in quarantine."""
    sent = [received(n, pixels=letter * 4) for n in range(1, 11) for letter in (b"a", b"b", b"c")]
    filing = node.instances.filing()
    for one in sent:
        node.add(filing, one)
    assert Counter(filing.commit()) == {Stored.NEW: 10, Stored.CONFLICT: 20}
    kept = quarantined(node)
    assert len(kept) == 20
    here = {dataset_bytes(i.blob) for i in node.instances.instances(STUDY)}
    assert here == {s.dataset for s in sent[::3]}
    assert {*kept} | here == {s.dataset for s in sent}


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
