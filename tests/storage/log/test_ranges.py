"""Ranges of segments: right while segments grow, are punched and removed, and checked on the disk."""

import ctypes
import hashlib
import os
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from storage.blobs import Blob, file_blobs
from storage.log import journal as journal_module
from storage.log.files import copy_durable
from storage.log.journal import Journal
from storage.log.segments.names import segment_path
from storage.log.segments.ranges import OPEN_SEGMENTS, InstanceFile, SegmentRange
from storage.log.segments.store import Segments
from tests.storage.log.logged import RECEIVER, addresses_in, hashes_of, logged
from tests.storage.node import Sent, received

PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
READERS = 50
_LIBC = ctypes.CDLL(None, use_errno=True)


def punch(path: Path, offset: int, length: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        if _LIBC.fallocate(descriptor, PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def image(number: int, size: int = 10_000) -> Sent:
    return received(number, pixels=random.randbytes(size))


def stored(folder: Path, *images: Sent) -> tuple[SegmentRange, ...]:
    """Log these images, and return their ranges in a sealed segment."""
    for n, one in enumerate(images):
        (folder / f"{n}.dcm").write_bytes(one.file)
    files = file_blobs(folder / f"{n}.dcm" for n in range(len(images)))
    blobs = logged(files, folder / "journal")
    assert all(isinstance(blob, SegmentRange) for blob in blobs)
    return blobs  # type: ignore[return-value]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def change(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def read(blob: Blob) -> bytes:
    with blob.open() as file:
        return file.read()


# -- one range ---------------------------------------------------------------------------------------------------------


def test_a_range_is_a_file_of_its_own(tmp_path: Path) -> None:
    one, other = image(1), image(2, 1_000_000)
    blobs = stored(tmp_path, one, other)
    for blob, sent in zip(blobs, (one, other), strict=True):
        assert read(blob) == sent.file
        assert blob.size == len(sent.file)
        with blob.open() as file:
            assert file.name == str(blob) == f"{blob.path}:{blob.offset}+{blob.size}"
            assert file.seek(-10, os.SEEK_END) == blob.size - 10
            assert file.read(100) == sent.file[-10:]
            assert file.read(1) == b""
            assert file.seek(blob.size + 5) == blob.size + 5
            assert file.read() == b""
            assert file.seek(4) == 4
            assert file.seek(1000, os.SEEK_CUR) == 1004
            assert file.read(300_000) == sent.file[1004:301_004]
            with pytest.raises(OSError, match="Invalid argument"):
                file.seek(-1)
            with pytest.raises(OSError, match="fileno"):  # sendfile or mmap would take other instances too
                file.fileno()
        copy_durable(blob, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == sent.file


def test_a_range_is_a_value(tmp_path: Path) -> None:
    one, other = stored(tmp_path, image(1), image(2))
    known = replace(one, checksum="another one")
    assert known == one == pickle.loads(pickle.dumps(one))
    assert pickle.loads(pickle.dumps(one)).checksum == one.checksum
    assert len({known, one, other}) == 2
    assert one.checksum == hashes_of(read(one), ExplicitVRLittleEndian).checksum


def test_a_segment_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = stored(tmp_path, *map(image, range(1, 21)))
    opened: list[str] = []
    really = os.open

    def counted(path: str, flags: int, *mode: int) -> int:
        opened.append(path)
        return really(path, flags, *mode)

    monkeypatch.setattr(os, "open", counted)
    for blob in blobs * 2:
        read(blob)
    assert opened == [blobs[0].path]


def test_a_segment_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    (blob,) = stored(tmp_path, image(1))
    content = read(blob)
    whole = blob.path.read_bytes()
    with blob.open() as file:
        assert file.read(1000) == content[:1000]
        blob.path.unlink()
        with pytest.raises(FileNotFoundError):
            blob.open()
        with pytest.raises(FileNotFoundError):
            blob.is_intact()
        blob.path.write_bytes(whole[: blob.offset] + content[::-1])
        assert read(blob) == content[::-1]
        assert file.read() == content[1000:]


def test_a_segment_that_is_cut_off_does_not_look_like_a_short_instance(tmp_path: Path) -> None:
    (blob,) = stored(tmp_path, image(1))
    os.truncate(blob.path, blob.offset + blob.size - 1)
    with pytest.raises(OSError, match="ends before"):
        read(blob)
    assert not blob.is_intact()


def test_the_bytes_of_a_deleted_instance_are_not_read(tmp_path: Path) -> None:
    gone, other = stored(tmp_path, image(1, 500_000), image(2, 500_000))
    content = read(other)
    with gone.open() as file:
        file.read(150_000)
        punch(gone.path, gone.offset, gone.size)
        with pytest.raises(FileNotFoundError):
            file.read()
    with pytest.raises(FileNotFoundError):
        read(gone)
    assert not gone.is_intact()
    assert read(other) == content
    assert other.is_intact()


# -- what is intact ----------------------------------------------------------------------------------------------------


def test_each_changed_byte_of_a_frame_is_found(tmp_path: Path) -> None:
    first, blob, last = stored(tmp_path, image(1, 100), image(2, 100), image(3, 100))
    places = range(blob.frame_offset, blob.offset + blob.size)
    for at in [*places[:60], *places[60::37], places[-1]]:
        change(blob.path, at)
        assert not blob.is_intact(), at
        change(blob.path, at)
        assert blob.is_intact()
    assert first.is_intact()
    assert last.is_intact()


def test_a_frame_is_intact_if_its_content_is_the_one_that_is_indexed(tmp_path: Path) -> None:
    one, other = stored(tmp_path, image(1), image(2))
    assert one.is_intact()
    assert not replace(one, checksum=other.checksum).is_intact()
    assert not replace(one, frame_offset=other.frame_offset).is_intact()
    assert not replace(one, size=one.size - 2).is_intact()


def test_a_segment_that_is_being_written_is_checked_too(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.receive(1)
    ((blob, _),) = log.live.values()
    assert blob.is_intact()
    change(segment_path(tmp_path / RECEIVER, 1), blob.frame_offset + 40)
    assert not blob.is_intact()
    log.journal.close()


def test_large_instances_are_checked_by_size_and_hashes(tmp_path: Path) -> None:
    sent = image(1, 3_000_000)
    (tmp_path / "1.dcm").write_bytes(sent.file)
    (blob,) = logged(file_blobs([tmp_path / "1.dcm"]), tmp_path / "journal", large=True)
    assert isinstance(blob, InstanceFile)
    assert str(blob) == str(blob.path) == str(tmp_path / "journal" / RECEIVER / "00000001-1.large")
    assert read(blob) == sent.file
    assert pickle.loads(pickle.dumps(blob)) == blob
    assert blob.is_intact()
    assert not replace(blob, size=blob.size + 1).is_intact()
    for at in (130, 400, 2_000_000):
        change(blob.path, at)
        assert not blob.is_intact(), at
        change(blob.path, at)
    assert blob.is_intact()
    os.truncate(blob.path, 100)
    assert not replace(blob, size=100).is_intact()


# -- many readers ------------------------------------------------------------------------------------------------------


class Log:
    """A log that is received into, indexed and deleted from, and the images that it holds, by their UIDs."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / RECEIVER)
        self.journal.open()
        self.live: dict[str, tuple[SegmentRange, bytes]] = {}  # the blobs, and the SHA-256 of their content
        self.is_over = False
        self._segments = Segments(folder)
        self._newest = 1
        self._changing = threading.Lock()

    def receive(self, number: int) -> None:
        sent = image(number, random.choice((500, 5_000, 50_000)))
        self.journal.store(sent.instance, sent.file)
        checksum = hashes_of(sent.file, ExplicitVRLittleEndian).checksum
        with self._changing:
            self._newest = max(self._segments.numbers(RECEIVER))
            for uid, address in addresses_in(self._segments, self._newest):
                if uid == sent.instance.sop_instance_uid:
                    blob = self._segments.blob(address, checksum)
                    assert isinstance(blob, SegmentRange)
                    self.live[uid] = blob, hashlib.sha256(sent.file).digest()

    def receive_all(self, count: int) -> None:
        try:
            for n in range(count):
                self.receive(n)
        finally:
            self.is_over = True

    def delete_some(self, left: int) -> int:
        """Delete images as long as some arrive, but for `left`, and return the number of segments removed."""
        removed = 0
        while not self.is_over:
            time.sleep(0.001)
            with self._changing:
                if len(self.live) <= left:
                    continue
                blob, _ = self.live.pop(random.choice(list(self.live)))
                punch(blob.path, blob.offset, blob.size)
                newest = segment_path(self.journal.folder, self._newest)
                if blob.path != newest and all(one.path != blob.path for one, _ in self.live.values()):
                    blob.path.unlink()
                    removed += 1
        return removed

    def read_some(self) -> int:
        """Read images as long as some arrive, and return how often one was read whole."""
        whole = 0
        while not self.is_over:
            time.sleep(0.02)  # or threads that read would leave the others no time
            if not (here := list(self.live.items())):
                continue
            uid, (blob, expected) = random.choice(here)
            found, part_bytes = hashlib.sha256(), random.choice((100, 10_000, 100_000))
            try:
                with blob.open() as file:
                    while part := file.read(part_bytes):
                        found.update(part)
            except FileNotFoundError:
                assert uid not in self.live
                continue
            assert found.digest() == expected
            whole += 1
        return whole


def test_fifty_readers_get_no_wrong_byte_and_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 100_000)
    before = descriptors()
    log = Log(tmp_path)
    with ThreadPoolExecutor(READERS + 2) as threads:
        reading = [threads.submit(log.read_some) for _ in range(READERS)]
        deleting = threads.submit(log.delete_some, 20)
        threads.submit(log.receive_all, 400).result()
        assert sum(one.result() for one in reading) > 500
        assert deleting.result() > OPEN_SEGMENTS
    log.journal.close()
    assert all(hashlib.sha256(read(blob)).digest() == expected for blob, expected in log.live.values())
    assert descriptors() <= before + OPEN_SEGMENTS
