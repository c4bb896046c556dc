"""The simulated scanner against the node's receiver."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.demo.simulator.scanner import Associations, PushOptions, push
from dicom_node.demo.simulator.study_files import load_study
from dicom_node.dimse.results import SendResult
from dicom_node.dimse.scu import Target
from dicom_node.receive.policy import ReceivePolicy
from dicom_node.receive.receiver import Receiver
from storage.errors import Permanent
from storage.records.evidence import AssociationEnd
from storage.records.instances import ReceivedInstance
from tests.instances import MakeFile
from tests.receive.conftest import disk_full
from tests.receive.kept import KeptJournal


@pytest.fixture
def journal(tmp_path: Path) -> KeptJournal:
    return KeptJournal(tmp_path / "journal")


@pytest.fixture
def target(journal: KeptJournal) -> Iterator[Target]:
    receiver = Receiver(ReceivePolicy("NODE", "127.0.0.1", 0, network_timeout=10), journal, journal.key, "receive-0")
    receiver.start()
    yield Target("NODE", "127.0.0.1", receiver.port)
    receiver.stop(grace=1)


@pytest.fixture
def study(make_file: MakeFile) -> list[list[Path]]:
    """Three series of six images."""
    uid = generate_uid()
    return [
        [make_file(StudyInstanceUID=uid, SeriesInstanceUID=series) for _ in range(6)]
        for series in (generate_uid() for _ in range(3))
    ]


def uids(paths: list[Path]) -> list[str]:
    return [str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in paths]


def ended(journal: KeptJournal, number: int) -> bool:
    deadline = time.monotonic() + 5
    while len(journal.ends) < number and time.monotonic() < deadline:
        time.sleep(0.01)
    return journal.ends == [AssociationEnd.RELEASED] * number


@pytest.mark.parametrize(
    ("associations", "count"), [(Associations.SERIES, 3), (Associations.STUDY, 1), (Associations.INSTANCE, 18)]
)
def test_everything_arrives_in_order_over_the_associations_asked_for(
    journal: KeptJournal, target: Target, study: list[list[Path]], associations: Associations, count: int
) -> None:
    seen: list[SendResult] = []
    report = push(study, target, "MR1", PushOptions(associations=associations), seen.append)
    expected = [uid for paths in study for uid in uids(paths)]
    assert list(report.acknowledged) == journal.uids == expected
    assert (report.sent, report.failures) == (18, ())
    assert [r.sop_instance_uid for r in seen] == expected
    assert report.images_per_second > 1
    assert {k.instance.source_ae_title for k in journal.kept} == {"MR1"}
    assert ended(journal, count)


def test_shuffled_is_another_order_and_repeatable(
    journal: KeptJournal, target: Target, study: list[list[Path]]
) -> None:
    first, second, third = (push(study, target, options=PushOptions(shuffle=seed)).acknowledged for seed in (1, 1, 2))
    assert first == second != third
    assert sorted(first) == sorted(third) == sorted(set(journal.uids))


def test_parallel_associations_deliver_everything(
    journal: KeptJournal, target: Target, study: list[list[Path]]
) -> None:
    report = push(study, target, options=PushOptions(Associations.INSTANCE, concurrency=4))
    assert sorted(report.acknowledged) == sorted(journal.uids)
    assert len(report.acknowledged) == 18


def test_the_rate_is_kept(target: Target, study: list[list[Path]]) -> None:
    report = push(study, target, options=PushOptions(rate=30))
    assert 17 / 30 <= report.seconds < 3


def test_what_is_refused_is_a_failure_with_a_reason(
    journal: KeptJournal, target: Target, study: list[list[Path]]
) -> None:
    refused = uids(study[1])[2]

    def full_once(instance: ReceivedInstance) -> None:
        if instance.sop_instance_uid == refused:
            disk_full()

    journal.before = full_once
    report = push(study, target)
    ((path, reason),) = report.failures
    assert path == study[1][2]
    assert "0xA700" in reason
    assert len(report.acknowledged) == 17


def test_nobody_listening_fails_every_image(study: list[list[Path]]) -> None:
    report = push(study, Target("NODE", "127.0.0.1", 1), options=PushOptions(timeout=1))
    assert (len(report.acknowledged), len(report.failures)) == (0, 18)


def test_a_folder_is_grouped_by_series_and_other_files_are_passed_over(tmp_path: Path, study: list[list[Path]]) -> None:
    folder = tmp_path / "export" / "deep"
    folder.mkdir(parents=True)
    for number, path in enumerate(path for paths in study for path in paths):
        shutil.copy(path, folder / f"IM{number:03d}")
    (folder / "README.txt").write_text("not an image")
    (folder / "empty").touch()
    loaded = load_study(tmp_path / "export")
    assert sorted(len(paths) for paths in loaded.series.values()) == [6, 6, 6]
    assert loaded.ignored == 2
    assert len(loaded.paths) == 18


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("not an image")
    with pytest.raises(Permanent, match="no DICOM images"):
        load_study(tmp_path)
    with pytest.raises(Permanent, match="does not exist"):
        load_study(tmp_path / "nowhere")
