"""Kept headers and hashes: what they hold, in every encoding, and what they never hold."""

import hashlib
import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from inference.headers.csa import read_csa
from storage.log.headers.content_hashes import MOST_PIXEL_ELEMENTS
from storage.log.headers.csa import trim_csa
from storage.log.headers.instance_reader import LARGEST_INFLATED, InstanceReader
from storage.log.headers.kept_elements import KEPT_ELEMENTS, LIST_VERSION
from storage.log.headers.kept_header import decode_kept_header, is_enough
from storage.records.instances import ContentHashes

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
PIXELS = b"\1\2" * 400


def code(value: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, "SCT", "Thigh"
    return ds


def image() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4", "MR"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.5"
    ds.StudyDate, ds.SeriesDescription = "20200102", "Oberschenkel quer, Übersicht"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "SECRET^PERSON", "SECRET1", "19600103", "F"
    ds.OtherPatientNames, ds.IssuerOfPatientID = "SECRET^OTHER", "SECRETS"
    ds.Rows, ds.Columns = 20, 20
    ds.AnatomicRegionSequence = Sequence([code("68367000")])
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "800")
    ds.private_block(0x0043, "SOMEBODY ELSE", create=True).add_new(0x39, "IS", "700")
    ds.private_block(0x0009, "SOMEBODY ELSE", create=True).add_new(0x10, "OB", bytes(300))
    ds.add_new(0x7FE00010, "OW", PIXELS)
    return ds


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian)
    content = buffer.getvalue()
    return zlib.compress(content, wbits=-15) if syntax == DeflatedExplicitVRLittleEndian else content


def read(content: bytes, syntax: str = ExplicitVRLittleEndian, parts: int = 10**9) -> InstanceReader:
    reader = InstanceReader(syntax, hashing=True)
    for start in range(0, len(content), parts):
        reader.update(memoryview(content)[start : start + parts])
    reader.update(b"", final=True)
    return reader


def kept(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    return read(encoded(ds, syntax), syntax).kept_header()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_elements_of_the_list_are_kept_in_every_encoding(syntax: str) -> None:
    header = kept(image(), syntax)
    ds = decode_kept_header(header)
    assert is_enough(header)
    assert header[0] == LIST_VERSION
    assert (ds.SeriesDescription, ds.Rows, list(ds.ImageType)) == (
        "Oberschenkel quer, Übersicht",
        20,
        ["ORIGINAL", "PRIMARY"],
    )
    assert ds.AnatomicRegionSequence[0].CodeValue == "68367000"
    assert ds.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 800
    assert list(ds.keys()) == sorted(ds.keys())
    assert {tag for tag in ds.keys() if not tag.is_private} <= KEPT_ELEMENTS  # noqa: SIM118
    assert not [tag for tag in ds.keys() if tag.group in (0x0009, 0x0043)]  # noqa: SIM118


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nothing_names_the_patient(syntax: str) -> None:
    ds = image()
    request = Dataset()
    request.RequestedProcedureDescription = "Thigh"
    ds.RequestAttributesSequence = Sequence([request])
    header = kept(ds, syntax)
    assert b"SECRET" not in header
    assert b"1960" not in header
    assert is_enough(header)
    request.PatientID = "SECRET2"  # against the standard
    header = kept(ds, syntax)
    assert b"SECRET" not in header
    assert not is_enough(header)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(
    ("stated", "born", "expected"),
    [
        (None, "19600103", "059Y"),
        (None, "19600102", "060Y"),
        ("057Y", "19600103", "057Y"),
        ("000Y", "19600103", "059Y"),
        (None, "20191201", "004W"),  # in days, it would tell the date of birth
        (None, "20200102", "001W"),
        (None, "20200103", None),
        (None, "1960", None),
    ],
)
def test_the_age_is_kept_and_not_the_date_of_birth(
    implicit: bool, stated: str | None, born: str, expected: str | None
) -> None:
    ds = image()
    ds.PatientBirthDate = born
    if stated:
        ds.PatientAge = stated
    header = kept(ds, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    assert decode_kept_header(header).get("PatientAge") == expected


def test_a_header_that_lacks_something_is_not_enough() -> None:
    frames, large = image(), image()
    frames.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
    large.ImageComments = "x" * 9000
    for ds in (frames, large):
        assert is_enough(kept(image()))
        assert not is_enough(kept(ds))
    large = image()
    large.private_block(0x0043, "SOMEBODY ELSE").add_new(0x2F, "OB", bytes(20_000))
    assert is_enough(kept(large))  # that one is not on the list
    large.private_block(0x0019, "SIEMENS MR HEADER").add_new(0x0E, "OB", bytes(20_000))
    assert not is_enough(kept(large))
    whole = encoded(image())
    assert not is_enough(read(whole[:400]).kept_header())
    assert is_enough(read(whole[:-10]).kept_header())  # the pixels are cut off
    assert is_enough(read(whole + bytes(100)).kept_header())
    older = bytes((LIST_VERSION - 1,)) + kept(image())[1:]
    assert not is_enough(older)
    assert not is_enough(b"")


def test_private_elements_without_creators_are_kept_at_their_usual_place() -> None:
    """De-identification drops creators. The block of another creator is nobody's usual place."""
    ds = image()
    del ds[0x00190010], ds[0x00430010]
    found = decode_kept_header(kept(ds))
    assert found[0x0019100C].value == ds[0x0019100C].value
    assert 0x00431039 in found


def test_a_csa_header_is_trimmed_to_what_is_read(test_data: Path) -> None:
    paths = sorted((test_data / "mr/siemens_prisma_epi_mosaic").glob("*.dcm"))
    block = dcmread(paths[0], stop_before_pixels=True)[0x00291010].value
    names = ("NumberOfImagesInMosaic", "SliceNormalVector")
    trimmed = trim_csa(block, [name.encode() for name in names])
    assert read_csa(trimmed, names) == read_csa(block, names)
    assert len(trimmed) < 1000 < len(block)
    for damaged in (block[:-500], block[:3000], block[4:], b""):
        assert trim_csa(damaged, [name.encode() for name in names]) == b""


# -- hashes ------------------------------------------------------------------------------------------------------------


def expected_hashes(content: bytes, pixels: bytes) -> ContentHashes:
    before, _, after = content.partition(pixels)
    return ContentHashes(hashlib.sha256(pixels).hexdigest(), hashlib.sha256(before + after).hexdigest())


@pytest.mark.parametrize("parts", [10**9, 1000, 7])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixels_and_the_rest_are_hashed_apart(syntax: str, parts: int) -> None:
    ds = image()
    ds.add_new(0xFFFCFFFC, "OB", bytes(20))
    content = encoded(ds, syntax)
    plain = zlib.decompress(content, wbits=-15) if syntax == DeflatedExplicitVRLittleEndian else content
    pixels = PIXELS if syntax != ExplicitVRBigEndian else b"\2\1" * 400
    pixels = pixels if pixels in plain else PIXELS
    assert read(content, syntax, parts).hashes() == expected_hashes(plain, pixels)


@pytest.mark.parametrize("parts", [10**9, 1000, 7])
def test_the_value_of_encapsulated_pixels_is_all_its_fragments(parts: int) -> None:
    ds = image()
    ds.PixelData = encapsulate([b"abc" * 100, b"de" * 300])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    ds.add_new(0xFFFCFFFC, "OB", bytes(20))
    content = encoded(ds)
    at = content.index(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)) + 12
    pixels = content[at : content.index(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)) + 8]
    assert read(content, JPEGLSLossless, parts).hashes() == expected_hashes(content, pixels)


@pytest.mark.parametrize(("tag", "vr"), [(0x7FE00008, "OF"), (0x7FE00009, "OD")])
def test_numbers_of_other_kinds_are_pixels_too(tag: int, vr: str) -> None:
    ds = image()
    del ds[0x7FE00010]
    ds.add_new(tag, vr, PIXELS)
    assert read(encoded(ds)).hashes() == expected_hashes(encoded(ds), PIXELS)


def test_an_object_without_pixels_has_the_other_hash_alone() -> None:
    ds = image()
    icon = Dataset()
    icon.PixelData = PIXELS
    icon["PixelData"].VR = "OW"
    ds.IconImageSequence = Sequence([icon])
    del ds[0x7FE00010]
    assert read(encoded(ds)).hashes() == ContentHashes("", hashlib.sha256(encoded(ds)).hexdigest())


def test_a_deflated_dataset_that_holds_too_much_is_hashed_as_it_came() -> None:
    ds = image()
    ds.add_new(0x7FE00010, "OW", bytes(LARGEST_INFLATED + 2**20))
    content = encoded(ds, DeflatedExplicitVRLittleEndian)
    whole = ContentHashes("", hashlib.sha256(content).hexdigest())
    for parts in (10**9, 5000):
        assert read(content, DeflatedExplicitVRLittleEndian, parts).hashes() == whole
    damaged = encoded(image(), DeflatedExplicitVRLittleEndian)[:-20]
    whole = ContentHashes("", hashlib.sha256(damaged).hexdigest())
    assert read(damaged, DeflatedExplicitVRLittleEndian, 100).hashes() == whole


def test_a_dataset_of_many_pixel_elements_takes_no_memory() -> None:
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 2)
    content = encoded(image()).removesuffix(PIXELS)[:-12] + b"".join(
        pixels + number.to_bytes(2) for number in range(60_000)
    )
    first = content.index(pixels)
    ends = [first + len(pixels) + (len(pixels) + 2) * number for number in range(MOST_PIXEL_ELEMENTS)]
    values, others, at = b"", b"", 0
    for end in ends:
        others, values, at = others + content[at:end], values + content[end : end + 2], end + 2
    others += content[at:]
    tracemalloc.start()
    try:
        found = read(content).hashes()
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert found == ContentHashes(hashlib.sha256(values).hexdigest(), hashlib.sha256(others).hexdigest())
    assert read(content, parts=1_000).hashes() == found


def test_what_violates_the_standard_is_read_once_more() -> None:
    """Other readers may not follow it, and whoever reads the pixels must learn of that before."""
    ds = image()
    whole = encoded(ds)
    at = whole.index(b"\x28\x00\x10\x00US")
    regular = read(whole).kept_header()
    assert is_enough(regular)
    odd_vr = whole[:at] + b"\x27\x00\x10\x10??\x06\0abcdef" + whole[at:]
    uid_behind = bytearray(whole)
    study = uid_behind.index(b"\x20\x00\x0d\x00UI")
    length = 8 + int.from_bytes(uid_behind[study + 6 : study + 8], "little")
    moved = bytes(uid_behind[:study] + uid_behind[study + length :] + uid_behind[study : study + length])
    stray = whole[:at] + b"\xfe\xff\xdd\xe0\0\0\0\0" + whole[at:]
    for dataset in (odd_vr, moved, stray):
        assert not is_enough(read(dataset).kept_header())
