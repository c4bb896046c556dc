"""SOP instances that come under another Study or Series Instance UID, and what peers are told about them."""

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, select

from storage.log.filing.aside import Aside
from storage.log.segments.ranges import SegmentRange
from storage.records.instances import Address, Stored
from storage.records.problems import ProblemKind
from storage.tables.commitments import Commitments
from storage.tables.database import schema
from tests.storage.node import MR, RECEIVER, STUDY, Node, received

OTHER = "1.2.4"
PIXELS = b"\4\3\2\1"


def problems(node: Node) -> list[tuple[ProblemKind, str]]:
    with node.database.reading() as session:
        return [(row.kind, row.study_instance_uid) for row in session.scalars(select(schema.ProblemRow))]


def places(node: Node) -> set[str]:
    return {f"{i.study_instance_uid}/{i.series_instance_uid}/{i.sop_instance_uid}" for i in node.instances.all()}


def test_the_same_pixels_under_other_uids_are_filed_in_both_places(node: Node) -> None:
    for number in (1, 2):
        assert node.store(received(number, sop=f"1.2.99.{number}")) is Stored.NEW
    node.route("liver")
    for number in (1, 2):
        assert node.store(received(number, study=OTHER, series=7, sop=f"1.2.99.{number}", name="B")) is Stored.COPY
    assert places(node) == {
        f"{STUDY}/{STUDY}.1/1.2.99.1",
        f"{STUDY}/{STUDY}.1/1.2.99.2",
        f"{OTHER}/{OTHER}.7/1.2.99.1",
        f"{OTHER}/{OTHER}.7/1.2.99.2",
    }
    assert (node.study().instances, node.study(OTHER).instances) == (2, 2)
    assert node.study().state == "ROUTED"  # nothing came for it
    told = [text for text in node.texts() if OTHER in text]
    assert told == [
        f"received: instances of series {STUDY}.1 came again with the same pixels, as series {OTHER}.7 of study "
        f"{OTHER}, and are filed there too"
    ]
    assert [t for t in node.texts(OTHER) if STUDY in t.replace(OTHER, "")] == [
        f"received: instances of series {STUDY}.1 of study {STUDY} came with the same pixels as series {OTHER}.7, "
        "and are filed here too"
    ]
    assert problems(node) == []
    assert node.store(received(1, study=OTHER, series=7, sop="1.2.99.1", name="B")) is Stored.DUPLICATE
    assert node.store(received(1, study=OTHER, series=7, sop="1.2.99.1", name="C")) is Stored.VERSION
    assert node.store(received(1, sop="1.2.99.1")) is Stored.DUPLICATE


def test_a_series_that_is_split_is_filed_in_both_and_opens_its_study(node: Node) -> None:
    node.store(received(1, sop="1.2.99"))
    node.route("liver")
    assert node.store(received(1, series=2, sop="1.2.99")) is Stored.COPY
    assert places(node) == {f"{STUDY}/{STUDY}.{series}/1.2.99" for series in (1, 2)}
    assert (node.study().state, node.study().revision) == ("RECEIVING", 2)


def test_a_conflict_is_a_problem_that_names_its_study_and_not_committed_until_it_is_resolved(node: Node) -> None:
    commitments = Commitments(node.database)
    node.store(received(1, sop="1.2.99"))
    for _ in range(2):
        assert node.store(received(1, study=OTHER, sop="1.2.99", pixels=PIXELS)) is Stored.CONFLICT
    assert problems(node) == [(ProblemKind.QUARANTINED, OTHER)]
    (told,) = node.texts(OTHER)
    assert told.startswith(f"warning: an instance came under the UID of another image, which is in series {STUDY}.1")
    assert commitments.indexed(["1.2.99"]) == {"1.2.99": MR}
    assert commitments.aside(["1.2.99"]) == {"1.2.99"}  # it came last
    node.store(received(1, sop="1.2.99"))
    assert commitments.aside(["1.2.99"]) == frozenset()
    assert node.store(received(1, study=OTHER, sop="1.2.99", pixels=PIXELS)) is Stored.CONFLICT
    assert commitments.aside(["1.2.99"]) == {"1.2.99"}


def test_a_copy_and_a_conflict_in_one_batch(node: Node) -> None:
    filing = node.instances.filing()
    sent = [
        received(1, sop="1.2.99"),
        received(1, study=OTHER, sop="1.2.99"),
        received(1, series=3, sop="1.2.99", pixels=PIXELS),
    ]
    for one in sent:
        node.add(filing, one)
    assert filing.commit() == [Stored.NEW, Stored.COPY, Stored.CONFLICT]
    assert Commitments(node.database).aside(["1.2.99"]) == {"1.2.99"}


def failing_reads(patched: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """Let reads of segments fail at the offsets for which `fails` returns True."""

    def failing(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_or_fail(descriptor: int, what: Any, offset: int) -> Any:
            if fails(offset):
                raise OSError(errno.EIO, "Input/output error")
            return read(descriptor, what, offset)

        return read_or_fail

    for name in ("pread", "preadv"):
        patched.setattr(os, name, failing(getattr(os, name)))


def test_a_disk_that_fails_decides_about_no_image(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.store(received(1, sop="1.2.99"))
    with monkeypatch.context() as patched:
        failing_reads(patched, bool)  # all but the note that a folder begins with
        for sent in (received(1, sop="1.2.99", name="B"), received(1, study=OTHER, sop="1.2.99")):
            with pytest.raises(OSError, match="Input/output"):
                node.store(sent)
    assert node.store(received(1, sop="1.2.99", name="B")) is Stored.VERSION
    assert problems(node) == []


def test_a_bad_sector_has_both_images_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.store(received(1, sop="1.2.99"))
    (known,) = node.instances.instances(STUDY)
    assert isinstance(known.blob, SegmentRange)
    bad = range(known.blob.offset, known.blob.offset + known.blob.size)
    with monkeypatch.context() as patched:
        failing_reads(patched, bad.__contains__)
        assert node.store(received(1, sop="1.2.99", name="B")) is Stored.CONFLICT
        assert node.store(received(1, study=OTHER, sop="1.2.99")) is Stored.CONFLICT
    assert [kind for kind, _ in problems(node)] == [ProblemKind.QUARANTINED] * 2
    assert node.instances.instances(STUDY) == [known]


def test_a_conflict_that_comes_twice_in_one_batch_stays_one(node: Node) -> None:
    node.store(received(1, sop="1.2.99"))
    filing = node.instances.filing()
    for name in ("A", "A", "B"):
        sent = received(1, study=OTHER, sop="1.2.99", pixels=PIXELS, name=name)
        node.add(filing, sent)
    assert filing.commit() == [Stored.CONFLICT] * 3
    assert Commitments(node.database).aside(["1.2.99"]) == {"1.2.99"}
    assert node.studies.get(OTHER) is None
    assert problems(node) == [(ProblemKind.QUARANTINED, OTHER)] * 2
    assert len(node.instances.kept_aside()) == 2
    assert places(node) == {f"{STUDY}/{STUDY}.1/1.2.99"}


def test_content_that_cannot_be_filed_is_not_committed(node: Node) -> None:
    node.store(received(1, sop="1.2.99"))
    filing = node.instances.filing()
    address = Address(RECEIVER, 1, 10_000, 10_100, 5)
    filing.aside(Aside(str(address), address, "1.2.99", "", "", "", datetime.now(UTC), "it is strange"))
    filing.commit()
    assert Commitments(node.database).aside(["1.2.99", "1.2.98"]) == {"1.2.99"}


def test_one_more_conflict_costs_the_same_after_many(node: Node) -> None:
    """The statements and the rows that they meet are counted, not the time."""
    node.store(received(1, sop="1.2.99"))

    def met() -> int:
        rows = 0

        def count(*_: object) -> None:
            nonlocal rows
            rows += 1

        event.listen(schema.Base, "load", count, propagate=True)
        assert node.store(received(1, sop="1.2.99", pixels=next(others))) is Stored.CONFLICT
        event.remove(schema.Base, "load", count)
        return rows

    others = (bytes((n // 250, n % 250, 9, 9)) for n in range(1000))
    first = [met() for _ in range(3)][-1]
    for _ in range(30):
        met()
    assert met() == first
    assert len(node.instances.kept_aside()) == 34
