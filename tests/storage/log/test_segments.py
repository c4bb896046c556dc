"""Segments: no bytes of an image are a frame, whatever a crash left is sealed, bodies are read on demand."""

import errno
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import DamagedFrame, Retriable, StorageFull
from storage.log import journal as journal_module
from storage.log.journal import Journal
from storage.log.segments import holes, layout, writer
from storage.log.segments.frames import Frame, FrameKind, meta_of, new_frame
from storage.log.segments.names import list_segments
from storage.log.segments.reader import SegmentReader
from storage.log.segments.store import Segments
from storage.records.instances import Address
from tests.storage.log.crashes import tear
from tests.storage.log.release01 import old_frame, old_meta, old_segment
from tests.storage.node import Sent, received

RECEIVER = "receive-0"


@pytest.fixture
def opened(tmp_path: Path) -> Journal:
    result = Journal(tmp_path / RECEIVER)
    result.open()
    return result


def store(opened: Journal, *sent: Sent) -> None:
    for one in sent:
        opened.store(one.instance, one.file, kept=b"kept " + one.instance.sop_instance_uid.encode())


def segment(opened: Journal) -> Path:
    return list_segments(opened.folder)[0]


def all_frames(path: Path) -> list[Frame]:
    with SegmentReader(path) as reader:
        return list(reader.all_frames())


def uids(frames: Sequence[Frame]) -> list[str]:
    return [f.meta["sop_instance_uid"] for f in frames if f.kind in (FrameKind.INSTANCE, FrameKind.LARGE_INSTANCE)]


def is_sealed(path: Path) -> bool:
    with SegmentReader(path) as reader:
        return reader.unsealed is None


def space(path: Path) -> int:
    os.sync()
    return path.stat().st_blocks * 512


def change(path: Path, at: int, new: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(new)


def image(number: int, pixels: bytes) -> Sent:
    return received(number, pixels=pixels + b"\0" * (len(pixels) % 2))


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False])
def test_metas_and_kept_headers_are_read_without_bodies(
    opened: Journal, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [image(n, bytes(1_000_000)) for n in (1, 2)]
    store(opened, *sent)
    if not live:
        opened.close()
    read: list[int] = []
    pread = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        found = pread(descriptor, length, offset)
        read.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", counted)
    with SegmentReader(segment(opened)) as reader:
        _, *stored = reader.frames(0)
        assert [f.kept for f in stored] == [b"kept " + one.instance.sop_instance_uid.encode() for one in sent]
        assert sum(read) < 20_000
        assert [reader.body(f) for f in stored] == [one.file for one in sent]


def test_a_range_is_read_by_its_address(opened: Journal) -> None:
    sent = received()
    store(opened, sent)
    segments = Segments(opened.folder.parent)
    assert segments.receivers() == [RECEIVER]
    assert segments.numbers(RECEIVER) == [1]
    with segments.open(RECEIVER, 1) as reader:
        _, stored = reader.frames(0)
    address = Address(RECEIVER, 1, stored.offset, stored.body_offset, stored.head.body_bytes)
    assert segments.read(address) == sent.file
    with pytest.raises(DamagedFrame):
        segments.read(replace(address, length=address.length + 1))


def test_a_body_that_changed_on_the_disk_is_not_handed_out(opened: Journal) -> None:
    store(opened, received(1), received(2))
    opened.close()
    stored = all_frames(segment(opened))[1]
    change(segment(opened), stored.body_offset + 100, b"!")
    assert uids(all_frames(segment(opened))) == [received(n).instance.sop_instance_uid for n in (1, 2)]
    with SegmentReader(segment(opened)) as reader, pytest.raises(DamagedFrame):
        reader.body(stored)


def test_a_frame_that_took_the_place_of_a_longer_one_is_not_read_before_it_is_whole(opened: Journal) -> None:
    """The longer one did not fit on the disk and was cut off, after a reader had seen how far it reached."""
    store(opened, received(1))
    path = segment(opened)
    size = path.stat().st_size
    store(opened, received(2))
    written = path.read_bytes()[size:]
    os.truncate(path, size)
    change(path, size, bytes(len(written) + 1000))
    with SegmentReader(path) as reader:
        os.truncate(path, size)
        change(path, size, written[:-100])
        assert uids(list(reader.frames(0))) == [received(1).instance.sop_instance_uid]


# -- images that hold frames -------------------------------------------------------------------------------------------


def hostile_segment(folder: Path) -> bytes:
    """A whole, sealed segment, whose frames name files elsewhere."""
    hostile = Journal(folder)
    hostile.open()
    store(hostile, received(66))
    meta = meta_of(received(67).instance) | {"file": "../../victim", "size": 6}
    hostile._write(new_frame(FrameKind.LARGE_INSTANCE, meta))
    hostile.close()
    return segment(hostile).read_bytes()


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["of this segment", "of another segment"])
def test_frames_inside_an_image_are_never_taken_for_frames(
    opened: Journal, tmp_path: Path, own: bool, sealed: bool
) -> None:
    store(opened, received(1))
    hidden = segment(opened).read_bytes() if own else hostile_segment(tmp_path / "hostile")
    store(opened, image(2, hidden), received(3))
    opened.close()
    path = segment(opened)
    if not sealed:
        tear(path)
    torn = all_frames(path)[2]
    # A write that was torn before the image: its own head is gone, so that the next frame must be searched for.
    change(path, torn.offset, b"\xff" * (torn.body_offset - torn.offset + 300))
    found = all_frames(path)
    assert uids(found) == [received(n).instance.sop_instance_uid for n in (1, 3)]
    assert [f.kind for f in found if f.kind is not FrameKind.INSTANCE] == [FrameKind.STARTED]


def test_a_frame_of_another_segment_is_none_even_at_its_own_offset(opened: Journal, tmp_path: Path) -> None:
    other = Journal(tmp_path / "other")
    other.open()
    for one in (opened, other):
        store(one, received(1), received(2))
    first, second = all_frames(segment(opened))[1:]
    assert all_frames(segment(other))[2].offset == second.offset
    change(segment(opened), second.offset, segment(other).read_bytes()[second.offset :])
    assert all_frames(segment(opened))[1:] == [first]


def test_a_torn_image_that_ends_in_a_segment_does_not_make_its_own_segment_look_sealed(
    opened: Journal, tmp_path: Path
) -> None:
    hidden = hostile_segment(tmp_path / "hostile")
    store(opened, image(2, hidden))
    opened.close()
    path = segment(opened)
    content = path.read_bytes()
    os.truncate(path, content.index(hidden) + len(hidden))
    assert not is_sealed(path)
    again = Journal(opened.folder)
    again.open()
    assert is_sealed(path)
    assert uids(all_frames(path)) == []


@pytest.mark.parametrize("offset", [0, 2**63, 2**64 - 1])
def test_an_image_may_end_like_a_segment(opened: Journal, offset: int) -> None:
    """It names no place in the file, and not even a number that the system takes for one."""
    store(opened, image(1, b"DNE2" + struct.pack("<Q", offset)))
    for sealed in (False, True):
        assert is_sealed(segment(opened)) == sealed
        assert uids(all_frames(segment(opened))) == [received(1).instance.sop_instance_uid]
        opened.close()
        if not sealed:
            tear(segment(opened))
            Journal(opened.folder).open()


@pytest.mark.parametrize(
    "name", ["../../victim", "/etc/passwd", "..", "", "00000001-1.large/../victim", "00000001.log", None]
)
def test_a_frame_whose_file_is_elsewhere_is_damaged(opened: Journal, name: str | None) -> None:
    meta = meta_of(received(1).instance) | {"file": name, "size": 6}
    opened._write(new_frame(FrameKind.LARGE_INSTANCE, meta))
    store(opened, received(2))
    assert uids(all_frames(segment(opened))) == [received(2).instance.sop_instance_uid]
    opened.close()
    assert uids(all_frames(segment(opened))) == [received(2).instance.sop_instance_uid]


# -- damage ------------------------------------------------------------------------------------------------------------


def test_the_table_leads_past_heads_that_are_damaged(opened: Journal) -> None:
    store(opened, received(1), received(2))
    opened.close()
    whole = all_frames(segment(opened))
    for frame in whole:
        change(segment(opened), frame.offset, bytes(20))
    assert all_frames(segment(opened)) == whole


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("block", [0, layout.FIRST_FRAME - 20])
def test_either_head_of_a_segment_is_enough(opened: Journal, block: int, sealed: bool) -> None:
    store(opened, received(1))
    opened.close()
    if not sealed:
        tear(segment(opened))
    change(segment(opened), block, bytes(20))
    assert uids(all_frames(segment(opened))) == [received(1).instance.sop_instance_uid]


def test_a_segment_of_a_later_version_is_left_alone(opened: Journal) -> None:
    opened.close()
    head = bytearray(segment(opened).read_bytes()[:28])
    head[4] = layout.VERSION + 1
    change(segment(opened), 0, bytes(head[:24]) + struct.pack("<I", zlib.crc32(head[:24])))
    before = segment(opened).read_bytes()
    with pytest.raises(Retriable, match="later version"):
        SegmentReader(segment(opened))
    again = Journal(opened.folder)
    again.open()
    assert segment(opened).read_bytes() == before


# -- sealing -----------------------------------------------------------------------------------------------------------


def test_a_segment_is_sealed_when_the_next_one_begins_and_when_the_journal_is_closed(
    opened: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 5000)
    store(opened, *(received(n) for n in range(1, 4)))
    *finished, last = list_segments(opened.folder)
    assert finished
    assert all(is_sealed(path) for path in finished)
    assert not is_sealed(last)
    opened.close()
    assert is_sealed(last)


@pytest.mark.parametrize(
    ("cut", "left"),  # bytes of the last frame that were not written, bytes of the table that were
    [(0, 0), (0, 1), (0, 20), (0, 50), (0, 150), (1, 0), (300, 0), (900, 0)],
)
def test_the_next_process_seals_what_a_crash_left(opened: Journal, cut: int, left: int) -> None:
    store(opened, received(1), received(2))
    opened.close()
    path = segment(opened)
    with SegmentReader(path) as reader:
        table = reader.between(reader.size, reader.size + left)
    tear(path, cut)
    with path.open("ab") as file:
        file.write(table)
    before = path.read_bytes()
    again = Journal(opened.folder)
    again.open()
    assert is_sealed(path)
    whole = 2 if cut == 0 else 1
    assert uids(all_frames(path)) == [received(n).instance.sop_instance_uid for n in (1, 2)][:whole]
    with SegmentReader(path) as reader:
        end = [frame.end for frame in reader.all_frames()][-1]
        assert end == reader.size
        sealed = path.read_bytes()
    assert sealed[:end] == before[:end]
    again.close()
    Journal(opened.folder).open()
    assert path.read_bytes() == sealed


@pytest.mark.parametrize("cut", [1, 900])
def test_a_segment_that_is_sealed_while_it_is_read_looks_undamaged(opened: Journal, cut: int) -> None:
    store(opened, received(1), received(2, pixels=bytes(4000)))
    opened.close()
    tear(segment(opened), cut)
    with SegmentReader(segment(opened)) as reader:
        Journal(opened.folder).open()
        found = list(reader.all_frames())
        assert [frame.kind for frame in found if frame.meta.get("sop_instance_uid")] == [FrameKind.INSTANCE]
        assert reader.is_cut_off(found[-1].end)


def test_a_whole_table_without_its_footer_is_no_instance(opened: Journal) -> None:
    store(opened, received(1))
    opened.close()
    path = segment(opened)
    os.truncate(path, path.stat().st_size - layout.FOOTER_BYTES)
    Journal(opened.folder).open()
    assert is_sealed(path)
    assert [f.kind for f in all_frames(path)] == [FrameKind.STARTED, FrameKind.INSTANCE, FrameKind.SEALED]


def test_a_table_that_a_loss_of_power_tore_is_no_damage(opened: Journal) -> None:
    store(opened, received(1))
    opened.close()
    path = segment(opened)
    with SegmentReader(path) as reader:
        sealed_at = reader.size
    length = path.stat().st_size - sealed_at
    change(path, sealed_at + 60, bytes(length - 60))
    Journal(opened.folder).open()
    assert is_sealed(path)
    with SegmentReader(path) as reader:
        assert reader.size == sealed_at
        assert uids(list(reader.all_frames())) == [received(1).instance.sop_instance_uid]


def test_a_torn_frame_is_not_in_the_table(opened: Journal) -> None:
    """A loss of power may leave the size of a file without all of its bytes."""
    store(opened, received(1), received(2), received(3))
    opened.close()
    path = segment(opened)
    torn = all_frames(path)[2]
    tear(path)
    change(path, torn.body_offset + 128, bytes(50))
    Journal(opened.folder).open()
    assert is_sealed(path)
    assert uids(all_frames(path)) == [received(n).instance.sop_instance_uid for n in (1, 3)]


def test_a_segment_whose_flush_failed_is_never_sealed(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page cache may show bytes that the disk does not have, and a later process would believe them."""

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    store(opened, received(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(Retriable):
            store(opened, received(2))
    store(opened, received(3))
    opened.close()
    Journal(opened.folder).open()
    failed, *others = list_segments(opened.folder)
    assert not is_sealed(failed)
    assert is_sealed(others[0])


def test_a_full_disk_keeps_no_segment_from_its_end(opened: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    store(opened, received(1))
    write = writer.write_all

    def full(descriptor: int, parts: Sequence[bytes]) -> None:
        if len(parts[-1]) == layout.FOOTER_BYTES:
            write(descriptor, [parts[0][:10]])
            raise OSError(errno.ENOSPC, "full")
        write(descriptor, parts)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_all", full)
        patch.setattr(journal_module, "SEGMENT_BYTES", 5000)
        store(opened, received(2), received(3))
        opened.close()
        before = [path.read_bytes() for path in list_segments(opened.folder)]
        again = Journal(opened.folder)
        again.open()
        *earlier, _ = list_segments(opened.folder)
        assert [path.read_bytes() for path in earlier] == before
        assert not any(is_sealed(path) for path in earlier)
        again.close()
    Journal(opened.folder).open()
    *earlier, _ = list_segments(opened.folder)
    assert all(is_sealed(path) for path in earlier)
    assert uids([f for path in earlier for f in all_frames(path)]) == [
        received(n).instance.sop_instance_uid for n in (1, 2, 3)
    ]


def test_reserved_space_is_given_back_once_a_segment_is_sealed(opened: Journal) -> None:
    store(opened, received(1))
    path = segment(opened)
    size = path.stat().st_size
    if space(path) < 2**20:
        pytest.skip("this file system reserves nothing, or has little room")
    assert size < 2**16
    opened.close()
    assert space(path) < 2**16
    assert uids(all_frames(path)) == [received(1).instance.sop_instance_uid]


def test_a_killed_receiver_keeps_no_reserved_space(opened: Journal) -> None:
    store(opened, received(1))
    path = segment(opened)
    opened.close()
    tear(path)
    with path.open("r+b") as file:
        holes.reserve(file.fileno(), path.stat().st_size, 2**22)
    assert space(path) > 2**21
    Journal(opened.folder).open()
    assert is_sealed(path)
    assert space(path) < 2**16


def test_nothing_is_reserved_on_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PLENTY", 2**40)
    opened = Journal(tmp_path / RECEIVER)
    opened.open()
    store(opened, received(1), received(2))
    assert space(segment(opened)) < 2**16


@pytest.mark.parametrize("fits", ["nothing", "the head of a segment"])
def test_a_start_that_found_no_space_is_noted_with_the_next_segment(
    tmp_path: Path, fits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writer.write_all

    def full(descriptor: int, parts: Sequence[bytes]) -> None:
        if fits == "nothing" or len(parts) > 1:
            raise OSError(errno.ENOSPC, "full")
        write(descriptor, parts)

    opened = Journal(tmp_path / RECEIVER)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_all", full)
        opened.open()
        with pytest.raises(StorageFull):
            store(opened, received(1))
    assert list_segments(opened.folder) == []
    store(opened, received(2))
    assert [f.kind for f in all_frames(segment(opened))] == [FrameKind.STARTED, FrameKind.INSTANCE]


# -- release 0.1 -------------------------------------------------------------------------------------------------------


def test_segments_of_release_01_are_read(opened: Journal) -> None:
    path = opened.folder / "00000000.log"
    path.write_bytes(old_segment(received(1), received(2)))
    with SegmentReader(path) as reader:
        started, *stored = reader.frames(0)
        assert started.kind is FrameKind.STARTED
        assert [reader.body(f) for f in stored] == [received(n).file for n in (1, 2)]
        assert reader.next_frame(reader.size) is None
    before = path.read_bytes()
    opened.close()
    Journal(opened.folder).open()
    assert path.read_bytes() == before


@pytest.mark.parametrize("at", ["body", "head"])
def test_after_damage_release_01_is_trusted_only_where_a_frame_ends(opened: Journal, at: str) -> None:
    hidden = old_frame(
        FrameKind.LARGE_INSTANCE, meta_of(received(66).instance) | {"file": "00000001-1.large", "size": 6}
    )
    first, second, third = received(1), image(2, hidden), received(3)
    path = opened.folder / "00000000.log"
    content = old_segment(first, second, third)
    path.write_bytes(content)
    start = content.index(second.file)
    if at == "body":
        change(path, start, b"!")
    else:
        meta_bytes = len(new_frame(FrameKind.INSTANCE, old_meta(second.instance)).content[0])
        change(path, start - meta_bytes - 20, b"!")
    expected = (1, 3) if at == "body" else (1,)
    assert uids(all_frames(path)) == [received(n).instance.sop_instance_uid for n in expected]


@pytest.mark.parametrize("version", [layout.VERSION, layout.VERSION + 1])
def test_an_image_of_release_01_may_hold_the_head_of_a_segment(opened: Journal, version: int) -> None:
    head = layout.encode_segment_head(bytes(16))[:24].replace(struct.pack("<I", 2), struct.pack("<I", version), 1)
    head += struct.pack("<I", zlib.crc32(head))
    path = opened.folder / "00000000.log"
    at = old_segment(image(1, b"pixel 00" * 1024)).index(b"pixel 00")
    path.write_bytes(old_segment(image(1, (bytes(4096 - at) + head).ljust(8192, b"\0"))))
    assert path.read_bytes()[4096 : 4096 + 28] == head
    assert uids(all_frames(path)) == [received(1).instance.sop_instance_uid]


def test_names_of_release_01_are_checked_too(opened: Journal) -> None:
    path = opened.folder / "00000000.log"
    meta = meta_of(received(1).instance) | {"file": "../../victim", "size": 6}
    path.write_bytes(old_frame(FrameKind.LARGE_INSTANCE, meta) + old_segment(received(2)))
    assert uids(all_frames(path)) == [received(2).instance.sop_instance_uid]
