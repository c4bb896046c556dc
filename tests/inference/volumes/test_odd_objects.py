"""Objects that are no images of their series, and series whose slices cannot make a volume: named, never silent."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    MRImageStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
)

from dicom_node.complete.inventory import take_inventory
from inference.headers import pixels
from inference.headers.images import feeds_inputs
from inference.quantities.fits.adc import adc_map
from inference.series.kinds import Kind
from inference.series.recogniser import read_headers, recognise_headers
from inference.volumes.reading import read_volume, read_volumes
from storage.blobs import file_blobs
from storage.errors import InputRefused
from storage.records.completion import Grade
from storage.records.evidence import InstanceEvidence, StudyContents
from storage.records.instances import Facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SLICES = 6


def image(number: int, **changes: Any) -> Dataset:
    """Make an axial T1w slice, 4 mm above the one before; an attribute that is None is left out."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, f"1.2.3.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.1", "1.2.2", "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.ScanningSequence, ds.SequenceVariant = "SE", "SK"
    ds.RepetitionTime, ds.EchoTime, ds.InstanceNumber = 550, 12, number
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelSpacing, ds.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, 4 * number]
    ds.PixelData = np.full((4, 4), number, np.uint16).tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
        if value is None:
            delattr(ds, keyword)
    return ds


def write(folder: Path, *series: Dataset) -> list[Path]:
    paths = []
    for n, ds in enumerate(series):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", MRImageStorage)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        paths.append(folder / f"{n:03}")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "raw data with rows": ({"SOPClassUID": RawDataStorage}, "Raw Data"),
    "a screenshot": ({"SOPClassUID": SecondaryCaptureImageStorage, "ImagePositionPatient": None}, "capture"),
    "a screenshot as MR": ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "Rows": 8, "Columns": 2}, "capture"),
    "no storage class": ({"SOPClassUID": None}, "no SOPClassUID"),
    "a presentation state": (
        {"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "Rows": None, "PixelData": None},
        "Presentation State",
    ),
    "a picture without a place": (
        {"ImageType": ["DERIVED", "SECONDARY", "OTHER"], "ImagePositionPatient": None},
        "without a place",
    ),
    "a picture of another size": ({"ImageType": ["DERIVED", "SECONDARY"], "Rows": 8, "Columns": 2}, "another size"),
    "a colour image": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
    "an image without a number of rows": ({"Rows": ""}, "without Rows and Columns"),
    "a localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], **SAGITTAL}, "a localizer"),
    "a reformatted image": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"], **SAGITTAL}, "another direction"),
    "an average": ({"ImageType": ["DERIVED", "PRIMARY", "AVERAGE"], "ImagePositionPatient": [0, 0, 8]}, "at the place"),
    "a private object": ({"SOPClassUID": "1.3.46.670589.11.0.0.12.2"}, "1.3.46.670589.11.0.0.12.2"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_object_is_left_out_and_named(name: str, tmp_path: Path) -> None:
    changes, reason = ODD[name]
    series = [image(number) for number in range(SLICES)]
    paths = write(tmp_path, image(99, **changes), *series)
    volume = read_volume(file_blobs(paths))
    assert volume.array[:, 0, 0].tolist() == [*range(SLICES)]
    found = recognise_headers(read_headers(file_blobs(paths)))
    assert (found.kind, found.confidence, found.slices, found.volumes, found.problem) == (Kind.T1W, 0.9, SLICES, 1, "")
    (told,) = [text for text in found.reasons if "object 99" in text]
    assert reason in told


def test_equal_reasons_are_told_once_and_name_no_uid(tmp_path: Path) -> None:
    odd = [image(n, ImageType=["DERIVED", "SECONDARY", "MPR"], **SAGITTAL) for n in (98, 99)]
    paths = write(tmp_path, image(0, SamplesPerPixel=""), *(image(n) for n in range(1, SLICES)), *odd)
    assert read_volume(file_blobs(paths)).array.shape == (SLICES, 4, 4)
    told = [text for text in recognise_headers(read_headers(file_blobs(paths))).reasons if "left out" in text]
    assert told == ["2 objects are left out: each lies in another direction than the other images"]


@pytest.mark.parametrize("name", ["no storage class", "a screenshot", "raw data with rows"])
def test_a_series_of_odd_objects_alone_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    paths = write(tmp_path, *(image(number, **ODD[name][0]) for number in range(SLICES)))
    with pytest.raises(InputRefused, match=r"no SOPClassUID|ImagePositionPatient is missing|Raw Data"):
        read_volume(file_blobs(paths))
    assert recognise_headers(read_headers(file_blobs(paths))).problem


def test_completeness_does_not_count_what_volumes_leave_out() -> None:
    def evidence(number: int, sop_class_uid: str, facts: Facts) -> InstanceEvidence:
        return InstanceEvidence(f"1.2.{number}", sop_class_uid, "1.2.2", NOW, facts)

    placed = [
        Facts(position=(0.0, 0.0, 4.0 * z), orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), images_in_acquisition=5)
        for z in range(5)
    ]
    instances = [evidence(n, MRImageStorage, facts) for n, facts in enumerate(placed)]
    instances.append(evidence(5, SecondaryCaptureImageStorage, Facts()))
    instances.append(evidence(6, RawDataStorage, Facts()))
    gap = [*(i for i in instances[:5] if i is not instances[2]), evidence(7, MRImageStorage, Facts())]
    gap = [replace(i, facts=replace(i.facts, images_in_acquisition=None)) for i in gap]
    assert take_inventory(StudyContents(tuple(gap))).short  # the picture without a place hides no gap
    (series,) = take_inventory(StudyContents(tuple(instances))).series
    assert (series.grade, series.declared) == (Grade.DECLARED, 5)
    assert not feeds_inputs(SecondaryCaptureImageStorage, "MR")  # nor makes a late one a new revision
    (alone,) = take_inventory(StudyContents((instances[5],))).series
    assert alone.here == 1


def at(*places: float, numbers: Callable[[int], int] = int) -> list[Dataset]:
    return [image(numbers(n), ImagePositionPatient=[0, 0, z]) for n, z in enumerate(places)]


VARYING = (*range(0, 40, 4), *range(43, 113, 7))
DOUBLED = (*range(0, 50, 5), *range(55, 155, 10))


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (at(*VARYING), "the spacing varies.*none is missing"),
        (at(*DOUBLED), "the spacing varies.*none is missing"),
        (at(*DOUBLED[::-1]), "the spacing varies.*none is missing"),
        (at(0, 4, 8, 16, 20, 24), "1 slice.s. missing.*send the missing slices again"),
        (at(*range(0, 20, 2), *range(20, 41, 4), numbers=lambda n: n if n < 10 else 2 * n), "slice.s. missing"),
    ],
)
def test_varying_spacing_is_told_from_missing_slices(series: list[Dataset], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=reason):
        read_volume(file_blobs(write(tmp_path, *series)))
    instances = [
        InstanceEvidence(
            str(ds.SOPInstanceUID),
            MRImageStorage,
            "1.2.2",
            NOW,
            Facts(
                instance_number=int(ds.InstanceNumber),
                position=tuple(map(float, ds.ImagePositionPatient)),  # type: ignore[arg-type]
                orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            ),
        )
        for ds in series
    ]
    inventory = take_inventory(StudyContents(tuple(instances)))
    assert bool(inventory.short) is ("missing" in reason and "none" not in reason)


def test_volumes_of_reversed_polarity_are_refused(tmp_path: Path) -> None:
    """GE epi_pepolar stores them upside down: user data 12 is 0 if it does not."""

    def pepolar(number: int, scheme: str | None) -> Dataset:
        ds = image(number, Manufacturer="GE MEDICAL SYSTEMS")
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", "research/ABCD/epi_pepolar")
        if scheme is not None:
            block.add_new(0xB3, "DS", scheme)
        return ds

    for scheme in ("1", "2", "3", None):
        paths = write(tmp_path, *(pepolar(number, scheme) for number in range(SLICES)))
        with pytest.raises(InputRefused, match="upside down"):
            read_volume(file_blobs(paths))
        assert "upside down" in recognise_headers(read_headers(file_blobs(paths))).problem
    paths = write(tmp_path, *(pepolar(number, "0") for number in range(SLICES)))
    assert read_volume(file_blobs(paths)).array.shape[0] == SLICES


def test_groups_that_are_all_per_frame_make_one_volume(tmp_path: Path) -> None:
    ds = image(0, SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=SLICES)
    for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(ds, keyword)
    ds.PixelData = np.repeat(np.arange(SLICES, dtype=np.uint16), 16).tobytes()
    ds.PerFrameFunctionalGroupsSequence = []
    for k in range(SLICES):
        frame = Dataset()
        for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures"):
            setattr(frame, f"{name}Sequence", [Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 4 * (SLICES - k)]
        frame.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        frame.PixelMeasuresSequence[0].PixelSpacing = [1, 1]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    volume = read_volume(file_blobs(write(tmp_path, ds)))
    assert volume.array[:, 0, 0].tolist() == [*range(SLICES)][::-1]
    assert volume.geometry.spacing == (4.0, 1.0, 1.0)


def diffusion(number: int, b: int | None, level: int, **changes: Any) -> Dataset:
    """Make an image as Canon and Toshiba write it: those of b = 0 have nothing in ImageComments."""
    place = [0, 0, 4 * (number % SLICES)]
    ds = image(number, ImagePositionPatient=place, Manufacturer="TOSHIBA_MEC", ScanningSequence="EP", **changes)
    ds.ImageComments = "" if b is None else f"b={b}(0.3,0.9,0.1)"
    ds.PixelData = np.full((4, 4), level, np.uint16).tobytes()
    return ds


@pytest.mark.parametrize(
    ("level", "changes", "b_value"),
    [
        (300, {}, 0.0),
        (60, {}, None),  # darker than the weighted image
        (300, {"EchoTime": 99}, None),
        (300, {"RepetitionTime": 99}, None),
        (300, {"ImageType": ["DERIVED", "SECONDARY", "M"]}, None),
    ],
)
def test_what_states_no_b_value_is_unweighted_only_if_it_is_brighter(
    level: int, changes: dict[str, Any], b_value: float | None, tmp_path: Path
) -> None:
    plain = [diffusion(n, None, level, **changes) for n in range(SLICES)]
    weighted = [diffusion(SLICES + n, 1500, 100) for n in range(SLICES)]
    volumes = read_volumes(file_blobs(write(tmp_path, *plain, *weighted)))
    assert [v.told_apart.get("b-value") for v in volumes] == [b_value, 1500]
    assert all("assumed" not in v.told_apart for v in volumes)
    if b_value is not None:
        adc = adc_map([v.array for v in volumes], [v.told_apart["b-value"] for v in volumes]).values
        assert adc == pytest.approx(np.log(3) / 1500 * 1e6, rel=1e-3)  # um2/s


def test_maps_with_a_b_value_do_not_decide_about_the_unweighted_images(tmp_path: Path) -> None:
    kinds = [(None, 300, {}), (1500, 100, {}), (1500, 3000, {"ImageType": ["DERIVED", "PRIMARY", "ADC"]})]
    series = [diffusion(SLICES * k + n, *kind[:2], **kind[2]) for k, kind in enumerate(kinds) for n in range(SLICES)]
    volumes = read_volumes(file_blobs(write(tmp_path, *series)))
    assert [v.told_apart.get("b-value") for v in volumes] == [0.0, 1500, 1500]


@pytest.mark.parametrize("level", [300, 60])
def test_the_chosen_unweighted_images_are_compared_with_the_weighted_ones(level: int, tmp_path: Path) -> None:
    series = [diffusion(SLICES * k + n, b, v) for k, b, v in ((0, None, level), (1, 1500, 100)) for n in range(SLICES)]
    paths = write(tmp_path, *series)
    if level == 60:
        with pytest.raises(InputRefused, match="not brighter than the weighted ones"):
            read_volume(file_blobs(paths), lambda told: 0)
    else:
        assert read_volume(file_blobs(paths), lambda told: 0).told_apart["b-value"] == 0


def test_a_lack_of_memory_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    paths = write(tmp_path, *(image(number) for number in range(SLICES)))
    monkeypatch.setattr(pixels, "_read_plain", fail)
    with pytest.raises(MemoryError):
        read_volume(file_blobs(paths))


def test_slices_without_numbers_are_told_from_a_varying_spacing(tmp_path: Path) -> None:
    series = [image(n, InstanceNumber=None) for n in (0, 1, 2, 4, 5, 6, 8, 9)]
    with pytest.raises(InputRefused, match=r"missing: distances"):
        read_volume(file_blobs(write(tmp_path, *series)))


def test_labelled_and_control_images_of_every_phase_are_volumes_of_their_own(tmp_path: Path) -> None:
    """Multi-phase ASL of Philips tells them by private attributes alone."""
    series = []
    for number, (label, phase, place) in enumerate(product(("LABEL", "CONTROL"), (1, 2, 3), range(SLICES))):
        ds = image(number, ImagePositionPatient=[0, 0, 4 * place], Manufacturer="Philips")
        ds.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x29, "CS", label)
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x08, "IS", phase)
        series.append(ds)
    volumes = read_volumes(file_blobs(write(tmp_path, *series)))
    assert {(v.told_apart["spin labelling"], v.told_apart["phase number"]) for v in volumes} == set(
        product(("LABEL", "CONTROL"), (1.0, 2.0, 3.0))
    )
    assert all(v.array.shape[0] == SLICES for v in volumes)
    found = recognise_headers(read_headers(file_blobs(sorted(tmp_path.iterdir()))))
    assert (found.kind, found.volumes, found.problem) == (Kind.ASL, 6, "")
