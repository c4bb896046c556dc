"""A lost database comes back from the log: what is known of instances is the same, and nothing is analysed again."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.index.indexer import Indexer
from storage.log.deletion.records import DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.log.journal import Journal
from storage.log.routed_studies import REASON
from storage.records.patients import PatientIdentity
from storage.records.studies import StudyState
from storage.tables.commitments import Commitments
from storage.tables.database import schema
from storage.tables.database.connection import Database, default_url
from tests.storage.node import Node, Sent, objects, received
from tests.stores import indexer_of

KEPT, GONE, OPEN, OWN = "1.2.3", "1.2.4", "1.2.5", "1.2.6"  # studies
START = datetime(2026, 5, 4, 12, tzinfo=UTC)
COMPARED = (
    schema.InstanceRow, schema.InstanceVersionRow, schema.AsideRow, schema.RepeatedRow, schema.ContestedRow,
    schema.OwnInstanceRow, schema.SegmentRow, schema.JournalRow,
)  # fmt: skip
NOT_COMPARED = {"id", "segment_id", "subject_id", "shared_header_id", "kept", "revision"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return opened(tmp_path)


def opened(folder: Path) -> Node:
    database = Database(default_url(folder))
    database.upgrade()
    return Node(database, folder / "instances")


def known(node: Node) -> dict[str, Any]:
    """Everything that is known of instances, without the ids of rows, which name nothing outside of the database."""
    found: dict[str, Any] = {}
    segment = schema.SegmentRow
    with node.database.reading() as session:
        for table in COMPARED:
            columns = [column for column in table.__table__.columns if column.name not in NOT_COMPARED]
            statement: Any = select(*columns)
            if "segment_id" in table.__table__.columns:
                statement = select(*columns, segment.receiver, segment.number).outerjoin(
                    segment, segment.id == table.__table__.c.segment_id
                )
            found[table.__tablename__] = sorted(map(repr, session.execute(statement).all()))
        studies = [row.study_instance_uid for row in session.scalars(select(schema.StudyRow))]
    found["kept"] = {str(place): kept for uid in studies for place, kept in node.instances.kept_headers(uid).items()}
    found["identities"] = {uid: node.instances.identities(uid) for uid in studies}
    found["bytes"] = {(str(i.blob), i.blob.is_intact()) for i in node.instances.all()}
    found["states"] = {uid: node.study(uid).state is StudyState.RECEIVING for uid in studies}
    return found


class Course:
    """A course of events at a node with three receivers, in an order that neither names nor times tell."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._journals = [Journal(node.journals / f"receive-{n}") for n in (2, 0, 1)]
        for journal in self._journals:
            journal.open()
        self.indexer = indexer_of(node)
        self._at = START

    def receive(self, journal: int, *sent: Sent, seconds: float = 1) -> None:
        """Receives, and indexes at once."""
        for one in sent:
            self._at += timedelta(seconds=seconds)
            self._journals[journal].store(replace(one.instance, received_at=self._at), one.file, kept=one.kept)
        self.indexer.advance()

    def receive_large(self, journal: int, sent: Sent) -> None:
        file = self._journals[journal].large()
        file.write(sent.file)
        self._journals[journal].store_large(replace(sent.instance, received_at=self._at), file, sent.kept)
        self.indexer.advance()

    def end(self) -> None:
        self.indexer._own_results._looked = self.indexer._routed._looked = 0
        self.indexer.carry_out_deletions()
        self.indexer.close()
        for journal in self._journals:
            journal.close()
        self._node.database.close()


def run_course(node: Node) -> None:
    course = Course(node)
    patient = PatientIdentity("a", birth_date="19500101")
    course.receive(0, *(received(n, patient=patient) for n in range(1, 6)))
    course.receive(2, received(1, name="B"), seconds=-7)  # the clock of this machine is behind
    course.receive(1, received(2), received(2))
    course.receive(1, received(3, pixels=b"\7\7\7\7"), received(3, pixels=b"\7\7\7\7"), received(3, pixels=b"\6\6\6\6"))
    course.receive(0, received(1, name="C"), received(1), received(4, series=2, sop="1.2.3.1.4"))
    course.receive_large(2, received(6, pixels=b"\5" * 10_000, size=100))
    course.receive(1, received(1, study=GONE), received(2, study=GONE), received(1, study=OPEN))
    course.receive(1, received(1, study=GONE))
    node.route("liver")
    course.indexer._routed._looked = 0
    course.indexer.carry_out_deletions()
    course.receive(0, received(9, series=7, modality="SR"))  # reopens nothing
    job = node.claim()
    assert node.succeed(job)
    made = objects(job)[0].sop_instance_uid
    course.receive(2, received(1, study=OWN, sop=made, modality="SR"))
    DeletionRequests(node.root.parent / "index-log").leave(DeletionRequest("ab", GONE, "asked for", START))
    course.end()


def lose_database(folder: Path) -> None:
    for path in folder.glob("node.sqlite*"):
        path.unlink()


def test_everything_known_of_instances_comes_back(node: Node, tmp_path: Path) -> None:
    run_course(node)
    before = known(node)
    assert {table: len(before[table]) for table in ("instance", "instance_version", "aside", "repeated")} == {
        "instance": 10, "instance_version": 6, "aside": 2, "repeated": 2,
    }  # fmt: skip
    lose_database(tmp_path)
    for _ in range(2):  # the second time, the log has what was indexed twice
        rebuilt = opened(tmp_path)
        indexer = indexer_of(rebuilt)
        indexer.advance()
        indexer.carry_out_deletions()
        indexer.close()
        after = known(rebuilt)
        for what, was in before.items():
            assert after[what] == was, what
        assert rebuilt.studies.get(GONE) is None
        assert rebuilt.study(KEPT).reason == REASON
        assert rebuilt.study(OWN).state is StudyState.IGNORED
        assert Commitments(rebuilt.database).aside(["1.2.3.1.3"]) == {"1.2.3.1.3"}
        lose_database(tmp_path)


def test_a_study_that_was_routed_is_analysed_again_only_when_asked(node: Node, tmp_path: Path) -> None:
    run_course(node)
    lose_database(tmp_path)
    rebuilt = opened(tmp_path)
    indexer = indexer_of(rebuilt)
    indexer.advance()
    assert [e.study_instance_uid for e in rebuilt.studies.evidence()] == [OPEN]  # the only one that may be completed
    assert rebuilt.studies.reroute(KEPT)
    assert rebuilt.study(KEPT).state is StudyState.COMPLETE
    late = Journal(rebuilt.journals / "receive-9")
    late.open()
    late.store(received(50, study=OPEN).instance, received(50, study=OPEN).file)
    indexer.advance()
    assert rebuilt.study(OPEN).instances == 2
    indexer.close()
    late.close()


def test_an_older_database_gets_what_came_after_it(node: Node, tmp_path: Path) -> None:
    """Also the routing: what was routed since is not analysed again."""
    course = Course(node)
    course.receive(0, received(1), received(1, study=OPEN))
    course.end()
    shutil.copy(tmp_path / "node.sqlite", tmp_path / "backup")
    again = opened(tmp_path)
    course = Course(again)
    course.receive(1, received(2))
    again.route("liver")
    course.end()
    before = known(again)
    lose_database(tmp_path)
    (tmp_path / "backup").rename(tmp_path / "node.sqlite")
    restored = opened(tmp_path)
    assert (restored.study().state, restored.study().instances) == (StudyState.RECEIVING, 1)
    indexer: Indexer = indexer_of(restored)
    indexer.advance()
    indexer.close()
    after = known(restored)
    assert after == before
    assert (restored.study().state, restored.study().instances, restored.study().reason) == (
        StudyState.ROUTED, 2, REASON,
    )  # fmt: skip


def test_the_mark_is_gone_while_rows_come_back(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_course(node)
    assert (node.journals / "filed").exists()
    lose_database(tmp_path)
    rebuilt = opened(tmp_path)
    seen: list[bool] = []
    restore = "storage.log.routed_studies.RoutedStudies.restore"
    monkeypatch.setattr(restore, lambda *_: seen.append((rebuilt.journals / "filed").exists()))
    indexer = indexer_of(rebuilt)
    indexer.advance()
    indexer.close()
    assert seen
    assert not any(seen)
    assert (rebuilt.journals / "filed").exists()


def test_what_is_read_again_from_the_beginning_keeps_its_place_in_the_history(node: Node, tmp_path: Path) -> None:
    run_course(node)
    before = known(node)
    again = indexer_of(opened(tmp_path))
    again.start_over()
    again.advance()
    again.close()
    lose_database(tmp_path)
    rebuilt = opened(tmp_path)
    indexer = indexer_of(rebuilt)
    indexer.advance()
    indexer.close()
    assert known(rebuilt) == before
    assert rebuilt.study(KEPT).reason == REASON
