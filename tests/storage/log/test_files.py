"""Files that appear whole, once, and only when they are durable."""

import errno
import os
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from storage.blobs import FileBlob
from storage.errors import Permanent, StorageFull
from storage.log.files import (
    IMPLEMENTATION_CLASS_UID,
    STALE_SECONDS,
    FileMeta,
    FileSystem,
    Tree,
    write_durable,
)


def dataset(size: int = 100) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.SOPInstanceUID = "1.2.3"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.add_new(0x7FE00010, "OW", bytes(size))
    return ds


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_dataset_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "seg.dcm"
    for size in (100, 200):
        assert write_durable(path, dataset(size)) == FileBlob(path)
        assert len(dcmread(path).PixelData) == size
    assert files(tmp_path) == ["new/folders/seg.dcm"]


def test_a_result_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, then name, then folder: any other order can lose or tear it."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        steps.append("flush " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        fsync(descriptor)

    def seen_replace(source: Path, target: Path) -> None:
        steps.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_durable(tmp_path / "seg.dcm", dataset())
    assert steps == ["flush file", "name", "flush folder"]


def test_nothing_is_replaced(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    path = tmp_path / "a" / "1.dcm"
    assert tree.put(path, b"head")
    assert not tree.put(path, b"other")
    assert path.read_bytes() == b"head"
    assert files(tmp_path) == ["a/1.dcm"]


def test_a_file_gets_another_name(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "large").write_bytes(b"large")
    assert tree.put(tmp_path / "a" / "1.dcm", tmp_path / "large")
    (tmp_path / "large").unlink()
    assert (tmp_path / "a" / "1.dcm").read_bytes() == b"large"


def test_a_folder_may_have_been_removed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    assert tree.put(tmp_path / "a" / "1.dcm", b"x")
    (tmp_path / "a" / "1.dcm").unlink()
    (tmp_path / "a").rmdir()
    assert tree.put(tmp_path / "a" / "2.dcm", b"x")


def test_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put(tmp_path / "a" / "1.dcm", b"x")
    dead, alive = tmp_path / ".incoming" / "dead", tmp_path / ".incoming" / "alive"
    dead.touch()
    alive.touch()
    old = alive.stat().st_mtime - STALE_SECONDS - 1
    os.utime(dead, (old, old))
    assert tree.remove_stale() == 1
    assert files(tmp_path) == [".incoming/alive", "a/1.dcm"]


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    tree = Tree(small_disk)
    with pytest.raises(StorageFull):
        tree.put(small_disk / "a" / "1.dcm", bytes(200_000))
    with pytest.raises(StorageFull):
        write_durable(small_disk / "seg.dcm", dataset(200_000))
    assert files(small_disk) == []
    assert tree.put(small_disk / "a" / "1.dcm", bytes(2_000))  # and the room is free again


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        write_durable(tmp_path / "seg.dcm", dataset())
    assert files(tmp_path) == []


def test_other_failures_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=r"exists|directory"):
        Tree(tmp_path).put(tmp_path / "a" / "1.dcm", b"x")


def test_a_file_system_is_flushed_as_a_whole(tmp_path: Path) -> None:
    file_system = FileSystem(tmp_path / "new")
    (tmp_path / "new" / "1").write_bytes(b"x")
    file_system.flush()
    file_system.close()
    with pytest.raises(OSError, match="descriptor"):
        file_system.flush()


@pytest.mark.parametrize("source", ["MR1", "MR12", "", "A_TITLE_LONGER_THAN_16"])
def test_the_header_is_file_meta_information(tmp_path: Path, source: str) -> None:
    """PS3.10 7.1, read by pydicom."""
    path = tmp_path / "1.dcm"
    header = FileMeta("1.2.840.10008.5.1.4.1.1.4", ExplicitVRLittleEndian, source).header("1.2.33")
    path.write_bytes(header + b"\x08\x00\x60\x00CS\x02\x00MR")
    ds = dcmread(path)
    assert ds.Modality == "MR"
    assert ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.33"
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert ds.file_meta.get("SourceApplicationEntityTitle", "") == source[:16]
    assert ds.file_meta.FileMetaInformationGroupLength == len(header) - 144
    assert len(IMPLEMENTATION_CLASS_UID) <= 64


def test_the_digest_covers_the_dataset_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    for path, source in zip(paths, ("MR1", "OTHER"), strict=True):
        path.write_bytes(FileMeta("1.2", ExplicitVRLittleEndian, source).header("1.2.3") + b"dataset")
    assert FileBlob(paths[0]).checksum == FileBlob(paths[1]).checksum


@pytest.mark.parametrize("content", [b"", b"x" * 500, bytes(128) + b"DICM"])
def test_a_foreign_file_has_no_digest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1.dcm").write_bytes(content)
    with pytest.raises(Permanent):
        _ = FileBlob(tmp_path / "1.dcm").checksum
