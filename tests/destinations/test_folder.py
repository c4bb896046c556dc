from pathlib import Path

from pydicom import dcmread

from dicom_node.destinations.folder import FolderDestination
from dicom_node.destinations.registry import KINDS
from tests.instances import MakeFile


def test_files_appear_under_their_uid(tmp_path: Path, make_file: MakeFile) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    source = make_file()
    destination = FolderDestination("out", folder)
    assert destination.echo().ok
    for _ in range(2):  # again is harmless
        (result,) = destination.send([source])
        assert result.ok
    (copy,) = folder.iterdir()
    assert copy.name == f"{dcmread(source).SOPInstanceUID}.dcm"
    assert copy.read_bytes() == source.read_bytes()


def test_a_missing_folder_is_retriable_and_other_files_are_refused(tmp_path: Path, make_file: MakeFile) -> None:
    destination = FolderDestination("out", tmp_path / "not mounted")
    (tmp_path / "notes.txt").write_text("not an image")
    missing, refused = destination.send([make_file(), tmp_path / "notes.txt"])
    assert (missing.ok, missing.retriable) == (False, True)
    assert (refused.ok, refused.retriable) == (False, False)
    assert not destination.echo().ok


def test_every_kind_is_registered() -> None:
    assert set(KINDS) == {"dimse", "folder"}
