"""The pixels of images are those that pydicom decodes, however they are stored."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from inference.headers import pixels
from inference.headers.pixels import read_pixels
from inference.headers.reading import UnreadableHeader, read_beginning
from storage.blobs import FileBlob
from storage.errors import InputRefused

ROWS, COLUMNS = 5, 3  # an odd number of bytes, if one byte is one pixel
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def image(allocated: int = 16, stored: int = 12, signed: int = 0, frames: int | None = None, vr: str = "OW") -> Dataset:
    """An image whose bits that are not stored hold anything."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientName = "SECRET^PERSON"
    ds.InstanceNumber = 7
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, stored, stored - 1, signed
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    if frames:
        ds.NumberOfFrames = frames
    content = np.random.default_rng(1).bytes((frames or 1) * ROWS * COLUMNS * allocated // 8)
    ds.add_new("PixelData", vr, content + b"\0" * (len(content) % 2))
    return ds


def saved(ds: Dataset, folder: Path, transfer_syntax_uid: UID = ExplicitVRLittleEndian) -> FileBlob:
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    ds.save_as(folder / "image.dcm", enforce_file_format=True)
    return FileBlob(folder / "image.dcm")


def is_read_plainly(blob: FileBlob) -> bool:
    beginning = read_beginning(blob)
    with blob.open() as file:
        file.seek(beginning.end)
        return pixels._read_plain(beginning.header, file) is not None


@pytest.mark.parametrize("syntax", [*PLAIN, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("bits", "signed", "frames"), list(product([(8, 8), (8, 7), (16, 16), (16, 12), (32, 32)], (0, 1), (None, 3)))
)
def test_numbers_are_read_as_pydicom_reads_them(
    syntax: UID, bits: tuple[int, int], signed: int, frames: int | None, tmp_path: Path
) -> None:
    blob = saved(image(*bits, signed, frames, "OW" if syntax == ImplicitVRLittleEndian else "OB"), tmp_path, syntax)
    expected = dcmread(blob.path).pixel_array.reshape(-1, ROWS, COLUMNS)
    found = read_pixels(read_beginning(blob))
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert is_read_plainly(blob) is (syntax in PLAIN)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, RLELossless])
def test_other_transfer_syntaxes_are_decoded_by_pydicom(syntax: UID, tmp_path: Path) -> None:
    ds = image(stored=16)
    if syntax == RLELossless:
        ds.compress(syntax)
    else:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.set_original_encoding(False, False)
    blob = saved(ds, tmp_path, syntax)
    assert np.array_equal(read_pixels(read_beginning(blob)), dcmread(blob.path).pixel_array[None])
    assert not is_read_plainly(blob)


@pytest.mark.parametrize(
    ("change", "is_plain"),
    [
        ({"SamplesPerPixel": None}, True),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, False),
        ({"PhotometricInterpretation": "RGB"}, False),
        ({"PixelData": image().PixelData + b"longer"}, False),  # by padding
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": b"\xaa\x55"}, False),
    ],
)
def test_odd_headers_do_not_cost_the_pixels(change: dict[str, object], is_plain: bool, tmp_path: Path) -> None:
    ds = image()
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    blob = saved(ds, tmp_path)
    ds.SamplesPerPixel = 1
    assert np.array_equal(read_pixels(read_beginning(blob)), ds.pixel_array[None])
    assert is_read_plainly(blob) is is_plain


@pytest.mark.parametrize(
    "change",
    [
        {"PixelData": b"\0\1"},
        {"Rows": 6},
        {"BitsStored": 17},
        {"BitsStored": 0},
        {"BitsAllocated": 12},
        {"PixelRepresentation": 2},
        {"SamplesPerPixel": 3},
        {"BitsAllocated": None},
    ],
)
def test_pixels_that_contradict_their_header_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    ds = image()
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    blob = saved(ds, tmp_path)
    with pytest.raises(InputRefused, match=r"the pixels of image 7 cannot be decoded \(\w+, transfer syntax Explicit"):
        read_pixels(read_beginning(blob))


def test_floats_are_no_integers(tmp_path: Path) -> None:
    ds = image(32, 32)
    ds.FloatPixelData = ds.PixelData
    del ds.PixelData
    blob = saved(ds, tmp_path, ImplicitVRLittleEndian)
    found = read_pixels(read_beginning(blob))
    assert found.dtype == np.float32
    assert found.tobytes() == ds.FloatPixelData
    assert not is_read_plainly(blob)


def test_numbers_that_are_said_to_be_compressed_are_refused(tmp_path: Path) -> None:
    beginning = read_beginning(saved(image(), tmp_path))
    beginning.header.file_meta.TransferSyntaxUID = RLELossless
    with pytest.raises(InputRefused):
        read_pixels(beginning)


def test_a_file_that_ends_within_its_pixels_is_refused(tmp_path: Path) -> None:
    blob = saved(image(), tmp_path)
    beginning = read_beginning(blob)
    content = blob.path.read_bytes()
    for end in (len(content) - 1, beginning.end + 12, beginning.end + 5, beginning.end):
        blob.path.write_bytes(content[:end])
        with pytest.raises(InputRefused):
            read_pixels(beginning)


@pytest.mark.parametrize("name", ["MR_small*.dcm", "CT_small.dcm", "emri_small*.dcm", "*16_1frame*.dcm", "OBX*.dcm"])
def test_the_images_of_pydicom_are_read_as_pydicom_reads_them(name: str) -> None:
    for path in map(Path, get_testdata_files(name)):
        beginning, ds = read_beginning(FileBlob(path)), dcmread(path)
        if isinstance(beginning.header, UnreadableHeader) or ds.get("SamplesPerPixel") != 1:
            continue
        try:
            expected = ds.pixel_array
        except Exception:  # damaged on purpose, or nothing here decodes it
            continue
        assert np.array_equal(read_pixels(beginning), expected.reshape(-1, ds.Rows, ds.Columns)), path.name
