"""Headers between reception and the worker: which instances are opened for them, and when series are recognised."""

from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node.route import recognition
from dicom_node.route.headers import blob_headers
from inference.headers.reading import UnreadableHeader
from inference.series.recogniser import read_headers
from storage.blobs import FileBlob, file_blobs
from storage.log.headers.patient_header import read_identity
from storage.log.segments.ranges import SegmentRange
from storage.records.instances import ReceivedInstance
from storage.records.studies import StudyState
from tests.acceptance.studies import write_ball_study
from tests.schedule.sweeps import Clock, Sweeps, application, bring, end, push, release
from tests.storage.node import Node, sent_file


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[SegmentRange]:
    """How often each instance is opened."""
    found: Counter[SegmentRange] = Counter()
    really_open = SegmentRange.open

    def counting(blob: SegmentRange) -> BufferedReader:
        found[blob] += 1
        return really_open(blob)

    monkeypatch.setattr(SegmentRange, "open", counting)
    return found


@pytest.fixture
def recognised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of headers of each series, whenever one is recognised."""
    found: list[int] = []
    recognise = recognition.recognise_headers

    def noting(headers: Any, *site: Any) -> Any:
        found.append(len(headers))
        return recognise(headers, *site)

    monkeypatch.setattr(recognition, "recognise_headers", noting)
    return found


def test_no_classic_instance_is_opened_before_the_worker(
    node: Node, clock: Clock, tmp_path: Path, opened: Counter[SegmentRange]
) -> None:
    sweeper = Sweeps(node, clock, applications=[application(start=False)])
    study = write_ball_study(tmp_path / "study")
    push(node, clock, study.paths, "a", 20)
    end(sweeper, node, clock)
    assert node.study(study.study_instance_uid).state is StudyState.ROUTED
    assert not opened


def store_enhanced(node: Node, clock: Clock, test_data: Path) -> str:
    """Store an Enhanced MR object, and return its Study Instance UID."""
    (path, *_) = sorted(p for p in (test_data / "mr/siemens_enhanced_no_shared_groups").iterdir() if p.is_file())
    ds = dcmread(path, stop_before_pixels=True)
    instance = ReceivedInstance(
        str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(ds.SeriesInstanceUID), str(ds.StudyInstanceUID),
        str(ds.file_meta.TransferSyntaxUID), "MR", "MR1", "", clock.wall(), patient=read_identity(FileBlob(path)),
    )  # fmt: skip
    node.store(sent_file(path, instance))
    return str(ds.StudyInstanceUID)


def test_an_enhanced_object_is_opened_once(
    node: Node, clock: Clock, test_data: Path, opened: Counter[SegmentRange]
) -> None:
    study = store_enhanced(node, clock, test_data)
    sweeper = Sweeps(node, clock, applications=[application(start=False)])
    for _ in range(40):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study(study).state in (StudyState.ROUTED, StudyState.IGNORED)
    assert list(opened.values()) == [1]


def test_what_cannot_be_read_is_recognised_once_its_bytes_are_restored(
    node: Node, clock: Clock, test_data: Path
) -> None:
    study = store_enhanced(node, clock, test_data)
    series = node.instances.series(study)
    segment, place = str(series[0].instances[0].blob).rsplit(":", 1)
    whole = Path(segment).read_bytes()
    at = int(place.split("+")[0]) + 128
    Path(segment).write_bytes(whole[:at] + b"????" + whole[at + 4 :])
    recogniser = recognition.SeriesRecogniser(node.instances)
    ((damaged, _),) = recogniser.look(series)
    Path(segment).write_bytes(whole)
    ((restored, _),) = recogniser.look(series)
    assert damaged.problem == "no image of the series can be read"
    assert restored.problem != damaged.problem


def test_a_quiet_series_is_recognised_while_others_arrive(
    node: Node, clock: Clock, tmp_path: Path, recognised: list[int]
) -> None:
    sweeper = Sweeps(node, clock, applications=[application(start=False)])
    study = write_ball_study(tmp_path / "study")
    uid, (*most, last) = study.study_instance_uid, study.paths
    push(node, clock, most, "a", None)
    for number in range(5):
        clock.pass_(1)
        bring(node, clock, number, "a", uid)  # another series, to which something comes every second
        sweeper.sweep()
    assert node.study(uid).state is StudyState.RECEIVING
    assert recognised == [19]
    push(node, clock, [last], "a", None)  # a late instance
    release(node, clock, "a")
    for _ in range(6):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study(uid).state is StudyState.RECEIVING
    assert sorted(recognised) == [5, 19, 20]
    for _ in range(10):
        clock.pass_(1)
        sweeper.sweep()
    assert node.study(uid).state is StudyState.ROUTED
    assert sorted(recognised) == [5, 19, 20]


def test_files_have_the_headers_that_they_would_have_if_received(tmp_path: Path) -> None:
    paths = write_ball_study(tmp_path / "study").paths
    found, whole = blob_headers(file_blobs(paths)), read_headers(file_blobs(paths))
    assert [ds.SOPInstanceUID for ds in found] == [ds.SOPInstanceUID for ds in whole]
    assert not any("PatientID" in ds for ds in found)
    text = tmp_path / "text"
    text.write_text("no DICOM")
    (header,) = blob_headers([FileBlob(text)])
    assert isinstance(header, UnreadableHeader)


def test_a_series_that_grows_with_pauses_is_not_recognised_in_each_of_them(
    node: Node, clock: Clock, tmp_path: Path, recognised: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = recognition.recognise_headers

    def slow(*given: Any) -> Any:
        clock.pass_(0.5)
        return noting(*given)

    monkeypatch.setattr(recognition, "recognise_headers", slow)
    sweeper = Sweeps(node, clock, applications=[application(start=False)])
    for path in write_ball_study(tmp_path / "study").paths:
        push(node, clock, [path], "a", None)
        for _ in range(4):
            clock.pass_(1)
            sweeper.sweep()
    assert recognised == [1]
    for _ in range(12):
        clock.pass_(1)
        sweeper.sweep()
    assert recognised == [1, 20]
