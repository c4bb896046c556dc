"""Secondary Captures as dcmtk and Orthanc render them, and what is drawn where."""

import io
import json
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.demo.pacs.base import PacsKind
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.scu import send_files
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.drawing.pictures import drawable, letters
from dicom_node.objects.pm import build_pm
from dicom_node.objects.rtstruct import build_rtstruct
from dicom_node.objects.sc import LINE, MAXIMUM_KEY_IMAGES, SIDE, build_sc
from inference.contract.findings import Code, Findings, ParametricMap, Segment
from inference.headers.reading import read_object
from inference.volumes.reading import read_volume
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from tests.objects.sources import ABNORMAL, MASS, findings, read, write_oblique
from tests.validators import dciodvfy_errors, dcmtk_frame

CONTEXT = ObjectContext("NODE", "seed")
RED, BLUE = (230, 30, 30), (40, 60, 250)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """50 rows 1.5 mm apart, 46 columns 1.25 mm apart."""
    return read(write_oblique(tmp_path / "images", "Müller^Änne", "ISO_IR 100"))


def disc(volume: Volume, k: int, centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """A disc on slice `k`; (down, right) of the middle of the image and radius in mm."""
    mask = np.zeros(volume.array.shape, bool)
    _, rows, columns = np.indices(volume.array.shape)
    _, row_mm, column_mm = volume.geometry.spacing
    down, right = ((np.array(volume.array.shape[1:]) - 1) / 2).tolist()
    mask[k] = np.hypot((rows[k] - down) * row_mm - centre[0], (columns[k] - right) * column_mm - centre[1]) < radius
    return mask


def segment(label: str, mask: NDArray[np.bool_], color: tuple[int, int, int] = RED) -> Segment:
    return Segment(label, mask, ABNORMAL, MASS, color, label, f"2.25.{sum(label.encode())}")


def written(found: Findings, folder: Path) -> tuple[Dataset, Path]:
    path = folder / "sc.dcm"
    build_sc(found, CONTEXT).save_as(path, enforce_file_format=True)
    return dcmread(path), path


def coloured(frame: NDArray[np.uint8], color: tuple[int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pixels of exactly that colour in the picture, where no text is."""
    rows, columns = np.nonzero((frame[: SIDE - 3 * LINE] == color).all(axis=2))
    return rows, columns


def test_others_see_the_same_pictures(volume: Volume, tmp_path: Path) -> None:
    ds, path = written(findings(volume), tmp_path)
    assert dciodvfy_errors(path) == []
    frames = ds.pixel_array
    assert frames.shape == (3, SIDE, SIDE, 3)
    for n, frame in enumerate(frames):
        assert np.array_equal(np.asarray(Image.open(dcmtk_frame(path, n, tmp_path))), frame)
    assert list(ds.FrameLabelVector) == ["Mass 1", "Mass 2", "Report"]
    assert str(ds.PatientName) == "Müller^Änne"
    assert ds.SeriesDescription == "Test mass key images, RESEARCH - not for diagnosis"
    assert build_sc(findings(volume), CONTEXT) == build_sc(findings(volume), CONTEXT)


def test_a_pacs_takes_every_object_and_shows_the_pictures(volume: Volume, tmp_path: Path) -> None:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    values = np.ones(volume.array.shape, np.float32)
    one = ParametricMap("T1", Code("113063", "DCM", "T1"), Code("ms", "UCUM", "millisecond"), values, (volume,))
    found = replace(findings(volume), maps=(one,))
    sc, path = written(found, tmp_path)
    paths = [path]
    for ds in (build_pm(found, one, CONTEXT), build_rtstruct(found, CONTEXT)):
        assert ds is not None
        paths.append(tmp_path / f"{ds.Modality}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    with start_pacs(tmp_path / "pacs", callers=["NODE"], kind=PacsKind.ORTHANC) as pacs:
        assert [result.ok for result in send_files(file_blobs(paths), "NODE", pacs.target)] == [True, True, True]
        stored = pacs.instances(volume.study_instance_uid)
        assert {(i.sop_instance_uid, i.sop_class_uid) for i in stored} == {
            (ds.SOPInstanceUID, ds.SOPClassUID) for ds in map(dcmread, paths)
        }
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        (found_there,) = json.load(opener.open(f"{pacs.http_url}/tools/lookup", str(sc.SOPInstanceUID).encode()))
        shown = opener.open(f"{pacs.http_url}{found_there['Path']}/frames/1/preview").read()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown))), sc.pixel_array[1])


def test_outlines_lie_where_the_masks_are_in_right_proportions(volume: Volume, tmp_path: Path) -> None:
    """Pixels are 1.5 x 1.25 mm: a disc is drawn as a circle. Both discs are on one slice, hence on one picture."""
    one, other = disc(volume, 4, (-20, 12), 10), disc(volume, 4, (22, -9), 10)
    other[5, 20:22, 20:22] = True
    ds, _ = written(findings(volume, (segment("One", one), segment("Other", other, BLUE))), tmp_path)
    assert list(ds.FrameLabelVector) == ["One", "Report"]
    places = []
    for color in (RED, BLUE):
        rows, columns = coloured(ds.pixel_array[0], color)
        width, height = np.ptp(columns), np.ptp(rows)
        assert width == pytest.approx(height, rel=0.1)
        places.append((columns.mean(), rows.mean()))
    scale = width / 20  # pixels per mm
    assert (places[0][0] - SIDE / 2) / scale == pytest.approx(12, abs=1)
    assert (places[1][0] - places[0][0]) / scale == pytest.approx(-21, abs=1)
    assert (places[1][1] - places[0][1]) / scale == pytest.approx(42, abs=2)


def test_a_hole_is_outlined_too(volume: Volume, tmp_path: Path) -> None:
    ring = disc(volume, 4, (0, 0), 20) & ~disc(volume, 4, (0, 0), 10)
    whole, _ = written(findings(volume, (segment("Disc", disc(volume, 4, (0, 0), 20)),)), tmp_path)
    hollow, _ = written(findings(volume, (segment("Ring", ring),)), tmp_path)
    more = coloured(hollow.pixel_array[0], RED)[0].size / coloured(whole.pixel_array[0], RED)[0].size
    assert more == pytest.approx(1.5, abs=0.1)  # the circumference of the hole is half of the other


def test_text_is_legible_at_512(volume: Volume, tmp_path: Path) -> None:
    ds, _ = written(findings(volume), tmp_path)
    assert ds.Rows == ds.Columns == SIDE
    shown = np.asarray(Image.fromarray(ds.pixel_array[0]).resize((512, 512), Image.Resampling.BILINEAR)).astype(int)
    notice = shown[: LINE * 512 // SIDE]
    ink = np.flatnonzero(((notice[..., 0] > 150) & (notice[..., 2] < 90)).any(axis=1))
    assert np.ptp(ink) >= 11  # from the top of the capitals down to the base line


def test_nothing_found_is_said(volume: Volume, tmp_path: Path) -> None:
    ds, path = written(findings(volume, ()), tmp_path)
    assert dciodvfy_errors(path) == []
    assert list(ds.FrameLabelVector) == ["No finding", "Report"]
    middle = volume.frames[len(volume.frames) // 2]
    assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [middle.sop_instance_uid]
    said = findings(volume, ()).title
    other, _ = written(replace(findings(volume, ()), title=f"{said} x"), tmp_path)
    assert not np.array_equal(ds.pixel_array[0, -2 * LINE :], other.pixel_array[0, -2 * LINE :])


def test_key_images_are_few_and_the_text_whole(volume: Volume, tmp_path: Path) -> None:
    segments = tuple(segment(f"Lesion {k}", disc(volume, k, (0, 0), 10)) for k in range(12))
    ds, path = written(findings(volume, segments), tmp_path)
    assert dciodvfy_errors(path) == []
    assert list(ds.FrameLabelVector)[:MAXIMUM_KEY_IMAGES] == [f"Lesion {k}" for k in range(MAXIMUM_KEY_IMAGES)]
    assert list(ds.FrameLabelVector)[MAXIMUM_KEY_IMAGES:] == ["Report"]


def test_no_pixel_depends_on_who_the_patient_is(volume: Volume, tmp_path: Path) -> None:
    ds, _ = written(findings(volume), tmp_path)
    assert ds.BurnedInAnnotation == "NO"
    for frame in volume.frames:
        image = read_object(frame.blob)
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = (
            "Other^One",
            "42",
            "20000101",
            "F",
        )
        image.StudyDate, image.StudyTime, image.AccessionNumber, image.StudyID = "20200202", "020202", "B7", "9"
        image.BurnedInAnnotation = "YES"
        image.save_as(str(frame.blob))
    other, _ = written(findings(volume), tmp_path)
    assert other.PixelData == ds.PixelData
    assert other.BurnedInAnnotation == "YES"  # the key images are the source's


def test_frames_of_an_enhanced_source_are_named(tmp_path: Path, test_data: Path) -> None:
    folder = test_data / "mr" / "siemens_xa30_study" / "5_anat-T1w_acq-tfl"
    found = findings(read_volume(file_blobs(folder.iterdir())))
    ds, path = written(found, tmp_path)
    assert dciodvfy_errors(path) == []
    for item, one in zip(ds.SourceImageSequence, found.segments, strict=True):
        k = int(one.mask.sum(axis=(1, 2)).argmax())
        assert item.ReferencedFrameNumber == found.source.frames[k].frame_number


@pytest.mark.parametrize(
    ("direction", "name"),
    [((1, 0, 0), "L"), ((0, -2, 0), "A"), ((0, 0, 1), "H"), ((0.2, 0, -0.98), "F"), ((-0.5, 0.8, 0.1), "PR")],
)
def test_directions_have_the_letters_of_the_patient(direction: tuple[float, float, float], name: str) -> None:
    assert letters(np.array(direction)) == name


def test_text_outside_the_font_stays_readable() -> None:
    assert drawable("Ödem, 3 cm³") == "Odem, 3 cm3"
    assert drawable("腫瘍 1") == "?? 1"
