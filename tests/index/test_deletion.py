"""Deletions: nothing of a patient is left, whatever cuts them short, and nothing else is touched."""

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import func, select

from dicom_node.index.indexer import Indexer
from storage.blobs import FileBlob
from storage.errors import DeletionRefused, StorageFull, StudyInUse
from storage.log import journal as journal_module
from storage.log.deletion import deletions as deletions_module
from storage.log.deletion.deletions import Deletions, check_deletion
from storage.log.deletion.records import DeletionRequest
from storage.log.deletion.requests import DeletionRequests
from storage.log.deletion.rows import remove_rows
from storage.log.filing.release01 import OldFiles
from storage.log.index_log import IndexLog, read_deleted_frames
from storage.log.journal import Journal
from storage.log.segments.names import list_segments
from storage.log.segments.store import Segments
from storage.records.jobs import JobState
from storage.records.results import NewObject, ObjectKind
from storage.records.studies import Stage, StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, default_url
from storage.tables.procedure_steps import ProcedureSteps
from tests.storage.log.crashes import tear
from tests.storage.log.release01 import old_segment
from tests.storage.node import MR, NOW, Node, Sent, received
from tests.stores import deletions_of, kept_headers_of

GONE, LEFT = "1.2.3", "1.2.4"  # studies
NAME, OTHER = "GONE^PATIENT", "LEFT^PATIENT"
STEPS = ("noted", "rows", "punched", "files", "segments", "done")


class Killed(BaseException):
    """The process is killed."""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    database = Database(default_url(tmp_path))
    database.upgrade()
    return Node(database, tmp_path / "instances")


def images(study: str, name: str) -> list[Sent]:
    """Three images; the first one twice, corrected, and twice with other pixels under its UID."""
    first, *others = [received(n, study=study, name=name, pixels=bytes([n]) * 5_000) for n in (1, 2, 3)]
    corrected = received(1, study=study, name=name, comment="corrected", pixels=bytes([1]) * 5_000)
    other = received(1, study=study, name=name, pixels=bytes([9]) * 5_000)
    return [first, *others, first, corrected, other, other]


def receive(node: Node, *sent: Sent, large: Sent | None = None, receiver: str = "receive-0") -> None:
    journal = Journal(node.journals / receiver)
    journal.open()
    for one in sent:
        journal.store(replace(one.instance, association=""), one.file, kept=one.kept)
    if large is not None:
        file = journal.large()
        file.write(large.file)
        journal.store_large(large.instance, file, large.kept)
    journal.close()


def fill(node: Node) -> None:
    """Two studies, in segments of their own and in one that they share, with a result and a procedure step."""
    receive(node, *images(GONE, NAME), large=received(4, study=GONE, name=NAME, pixels=b"\4" * 20_000))
    receive(node, *images(LEFT, OTHER), received(5, study=GONE, name=NAME), received(5, study=LEFT, name=OTHER))
    indexer = indexer_with(node, deletions_of(node))
    indexer.advance()
    indexer.close()
    for study, name in ((GONE, NAME), (LEFT, OTHER)):
        node.route("liver", uid=study)
        job = node.claim()
        path = node.root.parent / "objects" / study / str(job.id) / "sr.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
        uids = (f"2.25.{job.id}1", MR, f"2.25.{job.id}", study)
        made = NewObject(*uids, ObjectKind.SR, FileBlob(path), ())
        assert node.jobs.succeed(job.id, "worker", [made], {}, NOW)
        step = Dataset()
        step.PatientName = name
        steps = ProcedureSteps(node.database, node.root.parent / "mpps")
        assert steps.create(f"1.9.{study}", step, "MR1", [study], [], NOW)


def indexer_with(node: Node, deletions: Deletions) -> Indexer:
    old_files = OldFiles(node.database, node.instances, node.root)
    return Indexer(node.journals, node.instances, old_files, node.database, deletions, kept_headers_of(node))


def request(study: str = GONE, even_if_undelivered: bool = False) -> DeletionRequest:
    return DeletionRequest(
        f"{datetime.now(UTC).timestamp()}", study, "asked for", datetime.now(UTC), even_if_undelivered
    )


def run(node: Node, deletions: Deletions) -> None:
    """One life of the index role, up to the point where it is idle or killed."""
    indexer = indexer_with(node, deletions)
    try:
        indexer.advance()
        indexer.carry_out_deletions()
    finally:
        indexer.close()


def ask(node: Node, wanted: DeletionRequest) -> None:
    DeletionRequests(node.root.parent / "index-log").leave(wanted)


def is_clean(node: Node) -> None:
    """Nothing is left of the one study, in no byte of the data directory, and all of the other one is there."""
    node.database.close()
    for path in node.root.parent.rglob("*"):
        if path.is_file():
            assert NAME.encode() not in path.read_bytes(), path
    with node.database.reading() as session:
        for table in schema.Base.metadata.sorted_tables:
            if "study_instance_uid" in table.columns and table.name != "event":
                here = select(func.count()).where(table.columns["study_instance_uid"] == GONE)
                assert session.scalar(here) == 0, table.name
        assert session.scalar(select(func.count()).select_from(schema.ResultObjectRow)) == 1
        assert session.scalar(select(func.count()).select_from(schema.SubjectRow)) <= 1
    (told,) = node.studies.events(GONE)
    assert (told.stage, told.text) == (Stage.DELETED, "deleted with 5 instances: asked for")
    left = node.instances.instances(LEFT)
    assert len(left) == 4
    assert all(instance.blob.is_intact() for instance in left)
    data_dir = node.root.parent
    assert OTHER.encode() in next((data_dir / "objects").rglob("*.dcm")).read_bytes()
    assert not (data_dir / "objects" / GONE).exists()
    assert len(list((data_dir / "mpps").iterdir())) == 1
    assert len(list_segments(node.journals / "receive-0")) == 1  # that of the one study is gone
    assert not list((data_dir / "index-log" / "requests").iterdir())
    log = IndexLog(data_dir / "index-log")
    assert log.unfinished() == []
    deleted = read_deleted_frames(log.folder, node.journals)
    segments = Segments(node.journals, deleted.of)
    for number in segments.numbers("receive-0"):
        with segments.open("receive-0", number) as reader:
            end = reader.first
            for frame in reader.all_frames():
                assert frame.offset == end
                end = frame.end


def test_nothing_is_left_of_a_deleted_study(node: Node) -> None:
    fill(node)
    ask(node, request())
    run(node, deletions_of(node))
    is_clean(node)
    assert schema.OwnInstanceRow in {mapper.class_ for mapper in schema.Base.registry.mappers}
    with node.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(schema.OwnInstanceRow)) == 2


@pytest.mark.parametrize("step", STEPS)
def test_a_start_finishes_what_a_kill_cut_short(node: Node, step: str) -> None:
    fill(node)
    ask(node, request())
    reached = []

    def kill(name: str) -> None:
        reached.append(name)
        if name == step:
            raise Killed

    with pytest.raises(Killed):
        run(node, deletions_of(node, kill))
    assert reached[-1] == step
    run(node, deletions_of(node))
    is_clean(node)


def test_nothing_is_left_of_an_instance_that_a_kill_cut_off(node: Node) -> None:
    """It was never acknowledged, and came again later."""
    fill(node)
    cut_off = received(6, study=LEFT, name=NAME, pixels=b"\6" * 5_000)
    journal = Journal(node.journals / "receive-0")
    journal.open()
    journal.store(received(7, study=LEFT, name=OTHER).instance, received(7, study=LEFT, name=OTHER).file)
    journal.store(cut_off.instance, cut_off.file, kept=cut_off.kept)
    journal.close()
    path = list_segments(journal.folder)[-1]
    tear(path, 100)
    assert NAME.encode() in path.read_bytes()
    receive(node)
    assert NAME.encode() not in path.read_bytes()
    run(node, deletions_of(node))
    assert len(node.instances.instances(LEFT)) == 5


def test_nothing_is_left_of_an_instance_that_a_kill_cut_off_in_release_01(node: Node) -> None:
    fill(node)
    kept, cut_off = received(7, study=LEFT, name=OTHER), received(6, study=LEFT, name=NAME)
    path = node.journals / "receive-1" / "00000001.log"
    path.parent.mkdir()
    path.write_bytes(old_segment(kept, cut_off)[:-10])
    receive(node, receiver="receive-1")
    assert path.read_bytes() == old_segment(kept)
    run(node, deletions_of(node))
    assert len(node.instances.instances(LEFT)) == 5


def test_nothing_is_left_of_what_release_01_could_not_file(node: Node) -> None:
    fill(node)
    gone, left = (received(n, study=study, name=name) for n, study, name in ((7, GONE, NAME), (8, LEFT, OTHER)))
    data_dir = node.root.parent
    kept = {
        "unfiled/1-200.dcm": left.file,
        "quarantine/aside/1.2.4.dcm.0": left.file,
        "unfiled/1-100.dcm": gone.file,
        "unfiled/1-300.dcm": gone.file[100:1000],  # without the beginning
        "quarantine/aside/1.2.3.dcm.0": gone.file,
    }
    for name, content in kept.items():
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).write_bytes(content)
    ask(node, request())
    run(node, deletions_of(node))
    is_clean(node)
    assert [name for name in kept if (data_dir / name).exists()] == list(kept)[:2]


def test_a_restored_backup_does_not_bring_a_study_back(node: Node) -> None:
    fill(node)
    node.database.close()
    backup = node.root.parent.parent / "backup.sqlite"
    shutil.copy(node.root.parent / "node.sqlite", backup)
    ask(node, request())
    run(node, deletions_of(node))
    node.database.close()
    for path in node.root.parent.glob("node.sqlite*"):
        path.unlink()
    shutil.copy(backup, node.root.parent / "node.sqlite")
    assert node.instances.instances(GONE)
    run(node, deletions_of(node))
    is_clean(node)


def test_a_lost_database_does_not_bring_a_study_back(node: Node) -> None:
    fill(node)
    ask(node, request())
    run(node, deletions_of(node))
    node.database.close()
    for path in node.root.parent.glob("node.sqlite*"):
        path.unlink()
    run(node, deletions_of(node))
    assert node.studies.get(GONE) is None
    assert [event.stage for event in node.studies.events(GONE)] == [Stage.DELETED]
    assert len(node.instances.instances(LEFT)) == 4
    with node.database.reading() as session:  # the log still knows them
        assert session.scalar(select(func.count()).select_from(schema.OwnInstanceRow)) == 2


def test_a_study_that_comes_again_is_a_new_one(node: Node) -> None:
    fill(node)
    ask(node, request())
    run(node, deletions_of(node))
    receive(node, received(1, study=GONE, name="NEW^NAME"))
    run(node, deletions_of(node))
    study = node.study(GONE)
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 1, 1)
    assert [event.stage for event in node.studies.events(GONE)] == [Stage.DELETED, Stage.RECEIVED]
    for _ in range(2):
        run(node, deletions_of(node))
    assert node.study(GONE).instances == 1


def test_room_is_made_first_where_the_database_has_none(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(node)
    ask(node, request())
    steps: list[str] = []

    def remove(*arguments: object) -> None:
        if "punched" not in steps:
            raise StorageFull("No space left for the database")
        remove_rows(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(deletions_module, "remove_rows", remove)
    run(node, deletions_of(node, steps.append))
    assert steps[:2] == ["noted", "punched"]
    is_clean(node)


def test_results_that_nobody_has_are_not_given_up_unasked(node: Node) -> None:
    job = node.deliver("PACS")
    assert node.studies.get(GONE)
    with pytest.raises(DeletionRefused, match=r"2 of its result objects have not reached PACS"):
        check_deletion(node.database, GONE)
    ask(node, request())
    run(node, deletions_of(node))
    assert node.jobs.get(job.id)
    assert not list((node.root.parent / "index-log" / "requests").iterdir())
    ask(node, request(even_if_undelivered=True))
    run(node, deletions_of(node))
    assert node.studies.get(GONE) is None
    assert node.deliveries.list() == []


def test_a_job_that_runs_is_stopped_first(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions_module, "AGAIN_SECONDS", 0.0)
    node.queue("liver", "lung")
    job = node.claim()
    wanted = request()
    ask(node, wanted)
    deletions = deletions_of(node)
    indexer = indexer_with(node, deletions)
    indexer.advance()
    for _ in range(2):
        indexer.carry_out_deletions()
        assert node.studies.get(GONE) is not None
    with pytest.raises(StudyInUse):
        deletions.delete(wanted)
    assert not node.jobs.heartbeat(job.id, "worker", NOW)  # so it stops
    assert {one.state for one in node.jobs.list()} == {JobState.RUNNING, JobState.CANCELLED}
    assert node.jobs.fail(job.id, "worker", "stopped", None, NOW) is JobState.CANCELLED
    indexer.carry_out_deletions()
    assert node.studies.get(GONE) is None
    indexer.close()


def test_deleting_while_a_receiver_writes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 30_000)
    journal = Journal(node.journals / "receive-0")
    journal.open()
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            for study in (GONE, LEFT):
                sent = received(number, study=study, name=NAME if study == GONE else OTHER, pixels=bytes(3_000))
                journal.store(sent.instance, sent.file, kept=sent.kept)
        done.set()

    writer = threading.Thread(target=write)
    indexer = indexer_with(node, deletions_of(node))
    writer.start()
    while not done.is_set():
        indexer.advance()
        ask(node, request())
        indexer.carry_out_deletions()
    writer.join()
    indexer.advance()
    ask(node, request())
    indexer.carry_out_deletions()
    indexer.close()
    assert node.studies.get(GONE) is None
    assert len(node.instances.instances(LEFT)) == 60
    assert all(instance.blob.is_intact() for instance in node.instances.instances(LEFT))
    assert all(NAME.encode() not in path.read_bytes() for path in list_segments(journal.folder))
    journal.close()
