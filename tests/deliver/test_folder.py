"""FolderDestination on real file systems: one that is full, one that is not there, one that cannot be written."""

import os
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.deliver.destinations.folder import FolderDestination
from dicom_node.dimse.results import InstanceReference
from dicom_node.errors import PeerRefused
from storage.blobs import file_blobs
from storage.errors import Retriable
from tests.instances import MakeFile, reference


def below(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def place(path: Path) -> Path:
    ds = dcmread(path)
    return Path(ds.StudyInstanceUID, ds.SeriesInstanceUID, f"{ds.SOPInstanceUID}.dcm")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def test_objects_are_filed_by_study_and_series_and_once(inbox: Path, make_file: MakeFile) -> None:
    destination = FolderDestination("inbox", inbox)
    one = make_file()
    two = make_file(StudyInstanceUID=dcmread(one).StudyInstanceUID)
    uids = [str(dcmread(p).SOPInstanceUID) for p in (one, two)]
    references = [reference(one), reference(two)]
    assert destination.echo().ok
    with pytest.raises(PeerRefused, match="not there any more"):
        destination.stored(references)
    for _ in range(2):
        results = destination.send(file_blobs([one, two]))
        assert [(r.sop_instance_uid, r.ok, r.reason) for r in results] == [(uid, True, "") for uid in uids]
    assert below(inbox) == sorted([place(one), place(two)])
    for path in (one, two):
        assert (inbox / place(path)).read_bytes() == path.read_bytes()
    assert destination.stored(references) == set(uids)
    (inbox / place(two)).unlink()
    with pytest.raises(PeerRefused, match="not there any more"):  # somebody took it away
        destination.stored(references)


def test_who_may_read_them_follows_the_umask(inbox: Path, make_file: MakeFile) -> None:
    path = make_file()
    old = os.umask(0o027)
    try:
        assert FolderDestination("inbox", inbox).send(file_blobs([path]))[0].ok
    finally:
        os.umask(old)
    assert (inbox / place(path)).stat().st_mode & 0o777 == 0o640


def test_a_torn_file_of_a_crash_is_no_object_and_is_replaced(inbox: Path, make_file: MakeFile) -> None:
    path = make_file()
    target = inbox / place(path)
    target.parent.mkdir(parents=True)
    (target.parent / f".{target.name}.part").write_bytes(b"half")
    destination = FolderDestination("inbox", inbox)
    with pytest.raises(PeerRefused):
        destination.stored([reference(path)])
    assert destination.send(file_blobs([path]))[0].ok
    assert below(inbox) == [place(path)]


def test_a_folder_that_is_not_there_is_waited_for_and_not_made(inbox: Path, make_file: MakeFile) -> None:
    inbox.rmdir()
    destination = FolderDestination("inbox", inbox)
    (result,) = destination.send(file_blobs([make_file()]))
    assert (result.ok, result.retriable) == (False, True)
    assert "is not there" in result.reason
    assert not inbox.exists()
    assert not destination.echo().ok
    with pytest.raises(Retriable):
        destination.stored([InstanceReference("1.2.3", "1.2.3.1", "1.2", "1.2.3.4")])


def test_a_folder_that_cannot_be_written_is_told(make_file: MakeFile) -> None:
    unwritable = Path("/sys")  # root may not write there either
    (result,) = FolderDestination("inbox", unwritable).send(file_blobs([make_file()]))
    assert (result.ok, result.retriable) == (False, True)
    assert "cannot be written by this user" in result.reason


def test_a_full_folder_is_told_and_keeps_nothing_half(small_disk: Path, make_file: MakeFile) -> None:
    destination = FolderDestination("inbox", small_disk)
    small, large = make_file(), make_file(pixels=100_000)
    results = destination.send(file_blobs([large, small]))
    assert [(r.ok, r.retriable) for r in results] == [(False, True), (True, False)]
    assert "full" in results[0].reason
    assert below(small_disk) == [place(small)]


def test_what_is_no_object_is_refused(inbox: Path, make_file: MakeFile, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    outside = make_file(SeriesInstanceUID="../../../elsewhere")
    results = FolderDestination("inbox", inbox).send(file_blobs([text, tmp_path / "missing.dcm", outside]))
    assert [(r.ok, r.retriable) for r in results] == [(False, False), (False, True), (False, False)]
    assert below(inbox) == []
    assert not (tmp_path / "elsewhere").exists()
