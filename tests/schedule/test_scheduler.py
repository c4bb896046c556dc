"""The scheduler over a real database with a clock of ours: what it reads, whom it asks, what it starts early."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.complete.decide import CompletionRule
from dicom_node.errors import PeerRefused, PeerUnavailable
from dicom_node.schedule import Scheduler, Urgency
from inference.contract.manifest import InputRule, Manifest
from inference.series.kinds import Kind
from inference.series.site_table import SiteRule, SiteTable
from storage.log.filing import Ended, Opened
from storage.records.evidence import AssociationEnd, StudyContents
from storage.records.instances import Facts, ReceivedInstance
from storage.records.jobs import JobKind, JobState
from storage.records.procedure_steps import ProcedureStepState
from storage.records.studies import StudyState
from storage.tables.database.connection import Database, default_url
from storage.tables.procedure_steps import ProcedureSteps
from tests.acceptance.studies import write_ball_study
from tests.storage.node import STUDY, Node, received

RULE = CompletionRule(quiet=30, released=10, settled=2, maximum_age=600)
START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START
        self.index_stalled_at: datetime | None = None

    def filed(self) -> datetime | None:
        return self.now if self.index_stalled_at is None else self.index_stalled_at

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Source:
    """A PACS that counts, refuses or is away."""

    name = "archive"

    def __init__(self) -> None:
        self.count: int | Exception = 0
        self.asked: list[str] = []

    def count_instances(self, study_instance_uid: str) -> int:
        self.asked.append(study_instance_uid)
        if isinstance(self.count, Exception):
            raise self.count
        return self.count


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    yield Node(database, tmp_path / "instances")
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


def scheduler(
    node: Node,
    clock: Clock,
    source: Source | None = None,
    applications: Sequence[ConfiguredApplication] = (),
    peers: dict[str, int] | None = None,
    site: SiteTable = (),
) -> Scheduler:
    rule = RULE if source is None else replace(RULE, source=source.name)
    return Scheduler(
        node.studies, node.instances, node.jobs, node.results, node.deliveries, rule, applications,
        timedelta(seconds=30), 3, Urgency(peers or {}), clock.filed, source, clock, site,
    )  # fmt: skip


def bring(node: Node, clock: Clock, number: int, association: str = "", study: str = STUDY, **facts: object) -> None:
    sent = received(number, study=study if len(study) < 60 else "1.5", association=association)
    instance = replace(
        sent.instance,
        study_instance_uid=study,
        facts=Facts(**facts),  # type: ignore[arg-type]
        received_at=clock.now,
    )
    node.store(replace(sent, instance=instance))


# -- completion --------------------------------------------------------------------------------------------------------


def test_a_study_completes_by_what_its_images_declare(node: Node, clock: Clock) -> None:
    sweeper = scheduler(node, clock)
    for number in (1, 2):
        bring(node, clock, number, images_in_acquisition=2)
    sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.pass_(2)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED  # no application is configured
    (event,) = [e for e in node.studies.events(STUDY) if e.stage == "complete"]
    assert event.data["evidence"] == "declared counts"
    assert event.data["numbers"]["series"][0]["declared"] == 2


def test_images_are_looked_at_once_and_not_while_they_arrive(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    contents = node.studies.contents

    def counting(uid: str) -> StudyContents:
        read.append(uid)
        return contents(uid)

    monkeypatch.setattr(node.studies, "contents", counting)
    sweeper = scheduler(node, clock)
    for number in range(5):
        bring(node, clock, number, images_in_acquisition=7)
        sweeper.sweep()
        clock.pass_(1)
    assert read == []
    for _ in range(10):
        sweeper.sweep()
        clock.pass_(1)
    assert read == [STUDY]
    bring(node, clock, 6, images_in_acquisition=7)
    for _ in range(5):
        sweeper.sweep()
        clock.pass_(1)
    assert read == [STUDY, STUDY]


def test_what_is_indexed_late_is_waited_for(node: Node, clock: Clock) -> None:
    """The index was behind by a minute: what it files now came long ago, and more may follow."""
    sweeper = scheduler(node, clock)
    bring(node, clock, 1)
    clock.pass_(60)
    sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.pass_(10)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_a_study_is_not_quiet_while_the_index_stalls(node: Node, clock: Clock) -> None:
    """The database works, but what the receiver acknowledges stays in its journal."""
    sweeper = scheduler(node, clock, applications=[application()])
    bring(node, clock, 1)
    clock.index_stalled_at = clock.now + timedelta(seconds=1)
    for _ in range(60):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.index_stalled_at = None
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_a_study_waits_until_something_says_what_is_indexed(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "filed", lambda: None)
    sweeper = scheduler(node, clock, applications=[application()])
    bring(node, clock, 1, images_in_acquisition=1)
    for _ in range(599):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study().state is StudyState.RECEIVING
    clock.pass_(1)
    sweeper.sweep()
    assert node.study().state is StudyState.IGNORED


def test_what_is_indexed_while_it_is_decided_keeps_the_study_open(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = scheduler(node, clock)
    bring(node, clock, 1)
    sweeper.sweep()
    clock.pass_(30)
    contents = node.studies.contents

    def late(uid: str) -> StudyContents:
        monkeypatch.undo()
        found = contents(uid)
        bring(node, clock, 2)
        return found

    monkeypatch.setattr(node.studies, "contents", late)
    sweeper.sweep()
    study = node.study()
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 1, 2)


def test_a_clock_that_is_set_back_keeps_no_study_waiting(node: Node, clock: Clock, source: Source) -> None:
    sweeper = scheduler(node, clock, source)
    source.count = 5
    bring(node, clock, 1)
    clock.pass_(3)
    sweeper.sweep()
    sweeper.ask_source()
    clock.pass_(-3600)
    source.count = 1
    for _ in range(4):
        sweeper.sweep()
        sweeper.ask_source()
        clock.pass_(1)
    assert node.study().state is StudyState.IGNORED
    assert source.asked == [STUDY, STUDY]


def test_a_procedure_step_for_two_studies_completes_both(node: Node, clock: Clock) -> None:
    """Neither waits for the images of the other one, once those are here."""
    steps = ProcedureSteps(node.database, node.root / "mpps")
    sweeper = scheduler(node, clock)
    bring(node, clock, 1, study="1.1")
    listed = ("1.1.1.1", "1.2.1.1")
    ds = Dataset()
    assert steps.create("1.7", ds, "MR1", ("1.1", "1.2"), listed, clock.now)
    step = steps.get("1.7")
    assert step is not None
    assert steps.update(step, ds, ProcedureStepState.COMPLETED, ("1.1", "1.2"), listed, clock.now)
    for _ in range(20):
        sweeper.sweep()
        clock.pass_(1)
    assert node.study("1.1").state is StudyState.RECEIVING
    bring(node, clock, 1, study="1.2")
    for _ in range(4):
        sweeper.sweep()
        clock.pass_(1)
    assert [node.study(uid).state for uid in ("1.1", "1.2")] == [StudyState.IGNORED] * 2
    assert "the procedure step is completed and all 1 instance listed are here" in "".join(node.texts("1.2"))


# -- the source PACS ---------------------------------------------------------------------------------------------------


def test_the_source_is_asked_once_what_came_has_settled(node: Node, clock: Clock, source: Source) -> None:
    sweeper = scheduler(node, clock, source)
    source.count = 1
    bring(node, clock, 1)
    sweeper.sweep()
    sweeper.ask_source()
    assert source.asked == []
    clock.pass_(2)
    sweeper.ask_source()
    sweeper.ask_source()
    assert source.asked == [STUDY]
    sweeper.sweep()
    assert "archive counts 1 instance too" in node.texts()[2]
    sweeper.ask_source()
    assert source.asked == [STUDY]


def test_an_answer_says_nothing_of_what_came_while_it_was_given(node: Node, clock: Clock, source: Source) -> None:
    sweeper = scheduler(node, clock, source)
    bring(node, clock, 1)
    clock.pass_(2)
    asked_at = clock.now

    def slowly(study_instance_uid: str) -> int:
        clock.pass_(3)
        return 1

    source.count_instances = slowly  # type: ignore[method-assign]
    sweeper.ask_source()
    (evidence,) = node.studies.evidence(STUDY)
    assert [a.at for a in evidence.answers] == [asked_at]


def test_a_source_that_is_away_delays_nobody_and_rests(node: Node, clock: Clock, source: Source) -> None:
    source.count = PeerUnavailable("archive cannot be reached")
    sweeper = scheduler(node, clock, source)
    for study in ("1.1", "1.2", "1.3"):
        bring(node, clock, 1, study=study)
    sweeper.sweep()
    asked = []
    for _ in range(10):
        clock.pass_(1)
        sweeper.ask_source()
        asked.append(len(source.asked))
        sweeper.sweep()
    assert asked == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2]  # one study, and again after 5 s
    assert {node.study(s).state for s in ("1.1", "1.2", "1.3")} == {StudyState.IGNORED}
    assert "asked: archive gives no count of the study: archive cannot be reached" in node.texts("1.1")


def test_a_source_that_refuses_one_study_is_asked_about_the_others(node: Node, clock: Clock, source: Source) -> None:
    source.count = PeerRefused("archive does not accept queries")
    sweeper = scheduler(node, clock, source)
    for study in ("1.1", "1.2"):
        bring(node, clock, 1, study=study)
    clock.pass_(2)
    sweeper.ask_source()
    assert source.asked == ["1.1", "1.2"]


def test_a_mistake_in_asking_is_an_answer(node: Node, clock: Clock, source: Source) -> None:
    source.count = ValueError("SECRET^PERSON")
    sweeper = scheduler(node, clock, source)
    bring(node, clock, 1)
    clock.pass_(2)
    sweeper.ask_source()
    assert node.texts()[-1] == "asked: archive gives no count of the study: unexpected ValueError"


# -- applications that start on their inputs ---------------------------------------------------------------------------


def application(start: bool = True, kind: str = "T1w") -> ConfiguredApplication:
    manifest = Manifest("x", "mass", "1", "X", (InputRule("t1w", kind=kind),), Path("."), {}, "a")
    return ConfiguredApplication("mass", ("pacs",), manifest, starts_on_inputs=start)


def push(node: Node, clock: Clock, paths: Sequence[Path], association: str, declared: int | None) -> None:
    """Real images, with the facts their headers hold."""
    filing = node.instances.filing()
    filing.opened(Opened(association, "MR1", "NODE", "host", "receive-0", clock.now))
    for path in paths:
        ds = dcmread(path, stop_before_pixels=True)
        facts = Facts(
            instance_number=int(ds.InstanceNumber), acquisition_number=1, images_in_acquisition=declared,
            position=tuple(map(float, ds.ImagePositionPatient)),  # type: ignore[arg-type]
            orientation=tuple(map(float, ds.ImageOrientationPatient)),  # type: ignore[arg-type]
        )  # fmt: skip
        instance = ReceivedInstance(
            str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID),
            str(ds.file_meta.TransferSyntaxUID), "MR", "MR1", association, clock.now, facts,
        )  # fmt: skip
        filing.instance(instance, path.read_bytes())
    filing.commit()


def release(node: Node, clock: Clock, association: str) -> None:
    filing = node.instances.filing()
    filing.ended(Ended(association, AssociationEnd.RELEASED, clock.now))
    filing.commit()


def test_an_application_starts_on_its_inputs_and_its_job_stands(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = scheduler(node, clock, applications=[application()])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, clock, study.paths, "a", len(study.paths))
    sweeper.sweep()
    assert node.jobs.list() == []
    clock.pass_(2)
    bring(node, clock, 1, "a", uid)
    sweeper.sweep()
    (job,) = node.jobs.list()
    assert (job.application, job.revision, job.state) == ("mass", 1, JobState.QUEUED)
    assert node.study(uid).state is StudyState.RECEIVING
    (early,) = [e for e in node.studies.events(uid) if e.stage == "early"]
    assert "20 of 20 declared images" in early.text
    assert early.data["routing"]["applies"] is True
    release(node, clock, "a")
    for _ in range(15):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study(uid).state is StudyState.ROUTED
    assert [j.id for j in node.jobs.list()] == [job.id]
    assert f"queued: mass: the same instances as before, job {job.id} stands" in node.texts(uid)


@pytest.mark.parametrize("case", ["short", "not asked to", "other kind", "open"])
def test_no_application_starts_on_less(node: Node, clock: Clock, tmp_path: Path, case: str) -> None:
    chosen = application(start=case != "not asked to", kind="T2w" if case == "other kind" else "T1w")
    sweeper = scheduler(node, clock, applications=[chosen])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", {"short": 21, "open": None}.get(case, 20))
    for _ in range(28):
        clock.pass_(1)
        sweeper.sweep()
    assert [job for job in node.jobs.list() if job.kind is JobKind.ANALYSIS] == []


def test_a_late_slice_supersedes_the_early_job(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = scheduler(node, clock, applications=[application()])
    study = write_ball_study(tmp_path / "study")
    *most, last = study.paths
    push(node, clock, most, "a", 19)  # what the scanner declares is wrong
    clock.pass_(2)
    sweeper.sweep()
    assert len(node.jobs.list()) == 1
    push(node, clock, [last], "a", 19)
    release(node, clock, "a")
    for _ in range(15):
        clock.pass_(1)
        sweeper.sweep()
    assert [j.state for j in node.jobs.list()] == [JobState.CANCELLED, JobState.QUEUED]


# -- no result ---------------------------------------------------------------------------------------------------------


def end(sweeper: Scheduler, node: Node, clock: Clock) -> None:
    release(node, clock, "a")
    for _ in range(12):
        clock.pass_(1)
        sweeper.sweep()


def test_a_study_without_a_usable_input_is_reported_when_it_is_complete(
    node: Node, clock: Clock, tmp_path: Path
) -> None:
    sweeper = scheduler(node, clock, applications=[application(kind="T2w")])
    study = write_ball_study(tmp_path / "study")
    uid = study.study_instance_uid
    push(node, clock, study.paths, "a", 20)
    clock.pass_(3)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.RECEIVING
    assert node.jobs.list() == []  # it could have started on its inputs
    end(sweeper, node, clock)
    assert node.study(uid).state is StudyState.IGNORED
    (report,) = node.jobs.list()
    assert (report.kind, report.application, report.revision) == (JobKind.NO_RESULT, "mass", 1)
    assert report.detail.why == "input-missing"
    assert report.detail.explanation in node.study(uid).reason
    assert node.studies.reroute(uid)
    sweeper.sweep()
    assert node.study(uid).state is StudyState.IGNORED
    assert len(node.jobs.list()) == 1


def test_one_application_applies_and_another_reports(node: Node, clock: Clock, tmp_path: Path) -> None:
    other = replace(application(start=False, kind="T2w"), name="other")
    sweeper = scheduler(node, clock, applications=[application(start=False), other])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    end(sweeper, node, clock)
    assert node.study(study.study_instance_uid).state is StudyState.ROUTED
    assert [(j.application, j.kind) for j in node.jobs.list()] == [
        ("mass", JobKind.ANALYSIS),
        ("other", JobKind.NO_RESULT),
    ]


def test_what_the_site_says_of_its_series_feeds_an_input(node: Node, clock: Clock, tmp_path: Path) -> None:
    site = [SiteRule(Kind.T2W, series_description="*")]
    sweeper = scheduler(node, clock, applications=[application(start=False, kind="T2w")], site=site)
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    end(sweeper, node, clock)
    (job,) = node.jobs.list()
    assert (job.kind, job.application) == (JobKind.ANALYSIS, "mass")


def test_a_study_that_cannot_be_routed_is_reported(
    node: Node, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("SECRET^PERSON")

    monkeypatch.setattr("dicom_node.schedule.route", broken)
    sweeper = scheduler(node, clock, applications=[application(start=False)])
    push(node, clock, write_ball_study(tmp_path / "study").paths, "a", 20)
    end(sweeper, node, clock)
    (report,) = node.jobs.list()
    assert report.detail.why == "failure"
    assert report.detail.explanation.startswith("routing failed (KeyError)")


# -- priority ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "peer", "expected"), [(None, 0, 0), ("STAT", 0, 2), ("HIGH", 0, 1), (None, 3, 3), ("STAT", 1, 2)]
)
def test_a_job_is_as_urgent_as_its_study_or_its_peer(
    node: Node, clock: Clock, tmp_path: Path, asked: str | None, peer: int, expected: int
) -> None:
    sweeper = scheduler(node, clock, applications=[application(start=False)], peers={"MR1": peer})
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    if asked:
        bring(node, clock, 1, "a", study.study_instance_uid, priority=asked)
    release(node, clock, "a")
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    assert [j.priority for j in node.jobs.list()] == [expected]


# -- late versions -----------------------------------------------------------------------------------------------------


def test_a_corrected_name_is_computed_again(node: Node, clock: Clock, tmp_path: Path) -> None:
    sweeper = scheduler(node, clock, applications=[application(start=False)])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    release(node, clock, "a")
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    corrected = dcmread(study.paths[3])
    corrected.PatientName = "PHANTOM^CORRECTED"
    corrected.save_as(study.paths[3])
    push(node, clock, study.paths, "b", 20)
    release(node, clock, "b")
    for _ in range(12):
        sweeper.sweep()
        clock.pass_(1)
    first, second = node.jobs.list()
    assert (first.revision, first.state, second.revision, second.state) == (
        1, JobState.CANCELLED, 2, JobState.QUEUED,
    )  # fmt: skip
    assert first.fingerprint != second.fingerprint
