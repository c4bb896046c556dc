"""Volumes from series: exact geometry from real scanners, and a reason for whatever is not one volume."""

import random
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage, ImplicitVRLittleEndian, MRImageStorage

from inference.headers.csa import read_csa
from inference.headers.image_content import COMPONENT
from inference.headers.reading import read_header
from inference.volumes.grouping import REPETITION
from inference.volumes.planes import DIRECTION, TIME, planes_of
from inference.volumes.reading import read_volume, read_volumes
from inference.volumes.stacks import SliceStack, differences, stacks_of
from storage.blobs import file_blobs
from storage.errors import InputRefused
from tests.objects.sources import write_oblique

CSA_HEADER = (0x0029, 0x1010)


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("series", "shape", "spacing", "tolerance"),
    [
        ("mr/philips_elition_mprage_classic", (170, 256, 256), (1.0, 1.0, 1.0), 1e-3),
        ("mr/siemens_xa30_study/5_anat-T1w_acq-tfl", (96, 128, 128), (2.0, 2.0, 2.0), 1e-3),
        ("mr/siemens_prisma_t1_sag_HFDR", (35, 256, 256), (4.8, 1.02, 1.02), 1e-3),
        ("mr/ge_hdxt_prostate_adc", (20, 256, 256), (3.0, 0.703, 0.703), 1e-3),
        ("mr/small/hitachi_anatomical_001", (4, 64, 64), (4.0, 2.34, 2.34), 1e-3),
        ("mr/small/generic_compressed_jpegls_001", (4, 256, 256), (1.0, 1.0, 1.0), 1e-3),
        ("mr/small/generic_anatomical_002_non_isotropic", (4, 28, 64), (0.5, 4.0, 6.4), 1e-3),
        ("sarcoma/STS_001/MR_T1", (59, 158, 174), (3.27, 0.977, 0.977), 1e-3),
    ],
)
def test_real_series_have_exact_geometry(
    test_data: Path, series: str, shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float
) -> None:
    """Every voxel centre that the affine gives agrees with the plane's own header (PS3.3 C.7.6.2.1.1)."""
    volume = read_volume(file_blobs(files(test_data / series)))
    assert volume.array.shape == shape
    assert volume.geometry.spacing == pytest.approx(spacing, abs=0.01)
    for k in (0, shape[0] // 2, shape[0] - 1):
        frame = volume.frames[k]
        ds = read_header(frame.blob)
        if frame.frame_number is None:
            position, orientation, pixel = ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
        else:
            own, shared = (
                ds.PerFrameFunctionalGroupsSequence[frame.frame_number - 1],
                ds.SharedFunctionalGroupsSequence[0],
            )
            position = own.PlanePositionSequence[0].ImagePositionPatient
            orientation = (
                (own if "PlaneOrientationSequence" in own else shared)
                .PlaneOrientationSequence[0]
                .ImageOrientationPatient
            )
            pixel = (own if "PixelMeasuresSequence" in own else shared).PixelMeasuresSequence[0].PixelSpacing
        o, at = np.array(orientation, float), np.array(position, float)
        corner = at + (shape[1] - 1) * pixel[0] * o[3:] + (shape[2] - 1) * pixel[1] * o[:3]
        computed = volume.geometry.to_lps(np.array([[k, 0, 0], [k, shape[1] - 1, shape[2] - 1]], float))
        assert np.allclose(computed, [at, corner], atol=tolerance)


def test_voxels_agree_with_simpleitk(test_data: Path) -> None:
    folder = test_data / "mr" / "philips_elition_mprage_classic"
    volume = read_volume(file_blobs(files(folder)))
    shown = volume.array * volume.display_scale
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    for index in ((0, 0, 0), (85, 100, 120), (169, 255, 255)):
        place = volume.geometry.to_lps(np.array([index], float))[0]
        i, j, k = image.TransformPhysicalPointToIndex([float(v) for v in place])
        assert shown[index] == pytest.approx(image.GetPixel(i, j, k), abs=0.5)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ("malformed/geometry_sliceincrement_001", "1 slice(s) missing: distances from 5.00 to 10.00 mm, the first gap"),
        ("malformed/geometry_sliceorientation_001", "differ in orientation, matrix or pixel spacing"),
        ("malformed/geometry_slicecount_001", "only 2 slices"),
        ("mr/philips_elition_fieldmap_classic_2echo_magphase", "4 volumes: EchoTime 2.3, 4.6; image component"),
        ("mr/philips_elition_fieldmap_enhanced", "4 volumes: EchoTime 2.3, 4.6; image component"),
        ("mr/canon_galan_dti_enhanced_oblique", "13 volumes: b-value 0, 1500"),
        ("mr/ge_mr750_dynamic_10phases", "10 volumes: TemporalPositionIdentifier 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        ("mr/siemens_prisma_epi_mosaic", "6 volumes: TemporalPositionIdentifier 1, 2, 3, 4, 5, 6"),
        ("mr/uih_umr770_dti_vframe", "17 volumes: b-value 1.25, 929.75; 16 gradient directions"),
        ("mr/siemens_xa30_study/14_DWI_dir80_PA", "colour image"),
        ("mr/siemens_xa30_study/99_Phoenix_Document", "not an image"),
    ],
)
def test_what_is_no_single_volume_is_refused_with_the_reason(test_data: Path, series: str, reason: str) -> None:
    with pytest.raises(InputRefused, match=reason.replace("(", r"\(").replace(")", r"\)")):
        read_volume(file_blobs(files(test_data / series)))


def headers_of(folder: Path) -> list[Dataset]:
    return [dcmread(path, stop_before_pixels=True) for path in files(folder)]


def stacks(headers: Iterable[Dataset]) -> list[SliceStack]:
    return stacks_of([plane for header in headers for plane in planes_of(header)])


def test_classic_and_enhanced_split_alike(test_data: Path) -> None:
    """The same acquisition, stored both ways: two echoes, magnitude and phase."""
    classic = stacks(headers_of(test_data / "mr/philips_elition_fieldmap_classic_2echo_magphase"))
    enhanced = stacks(headers_of(test_data / "mr/philips_elition_fieldmap_enhanced"))
    assert [s.geometry.shape for s in classic] == [s.geometry.shape for s in enhanced] == [(53, 80, 80)] * 4
    assert differences(classic) == differences(enhanced) == "EchoTime 2.3, 4.6; image component magnitude, phase"
    for one, other in zip(classic, enhanced, strict=True):
        assert np.allclose(one.geometry.affine, other.geometry.affine, atol=0.01)


def classic(k: int, instance: int, **differing: Any) -> Dataset:
    """Make the header of slice `k` of an axial series, 3 mm apart."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = MRImageStorage, f"1.2.{instance}", instance
    ds.Rows, ds.Columns, ds.PixelSpacing = 8, 8, [1, 1]
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * k]
    for keyword, value in differing.items():
        setattr(ds, keyword, value)
    return ds


def series_of(slices: int, keyword: str, values: Iterable[Any], lost: Iterable[int] = ()) -> list[Dataset]:
    """Make a volume for each value, one after the other, without the instances that are `lost`."""
    numbered = enumerate(product(values, range(slices)), 1)
    return [classic(k, n, **{keyword: value}) for n, (value, k) in numbered if n not in lost]


def enhanced(slices: int) -> Dataset:
    """Make the header of an Enhanced image of many volumes, whose frames come in no order.

    It has two echoes x magnitude and phase x two times x (b 0, b 800 in two directions) x label and control, which only
    a private dimension tells apart.
    """
    ds, shared = Dataset(), Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Rows, ds.Columns = EnhancedMRImageStorage, "1.2.3", 8, 8
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [Dataset()], [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1, 1]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.DimensionIndexSequence = [Dataset(), Dataset()]
    for item, pointer in zip(ds.DimensionIndexSequence, ("InStackPositionNumber", 0x20051011), strict=True):
        item.DimensionIndexPointer = Tag(pointer)
    diffusion = [(0, None), (800, [1, 0, 0]), (800, [0, 1, 0])]
    frames = list(product((2.3, 4.6), "MP", (1, 2), diffusion, (1, 2), range(slices)))
    random.Random(0).shuffle(frames)
    ds.PerFrameFunctionalGroupsSequence = []
    for echo, component, time, (b, gradient), label, k in frames:
        frame = Dataset()
        for name in ("PlanePosition", "FrameContent", "MREcho", "MRImageFrameType", "MRDiffusion"):
            setattr(frame, f"{name}Sequence", [Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3 * k]
        frame.FrameContentSequence[0].TemporalPositionIndex = time
        frame.FrameContentSequence[0].DimensionIndexValues = [k + 1, label]
        frame.MREchoSequence[0].EffectiveEchoTime = echo
        frame.MRImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "T1", component]
        frame.MRDiffusionSequence[0].DiffusionBValue = b
        if gradient is not None:
            frame.MRDiffusionSequence[0].DiffusionGradientDirectionSequence = [Dataset()]
            frame.MRDiffusionSequence[0].DiffusionGradientDirectionSequence[0].DiffusionGradientOrientation = gradient
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    ds.NumberOfFrames = len(frames)
    return ds


def test_frames_of_several_dimensions_are_volumes() -> None:
    header = enhanced(slices=5)
    found = stacks([header])
    assert len(found) == 2 * 2 * 2 * 3 * 2
    seen = set()
    for stack in found:
        told = stack.told_apart
        seen.add(tuple(told.get(key) for key in ("EchoTime", COMPONENT, TIME, "b-value", DIRECTION, REPETITION)))
        for k, plane in enumerate(stack.planes):
            frame = header.PerFrameFunctionalGroupsSequence[plane.frame_number - 1]
            assert plane.position.tolist() == [0, 0, 3 * k]
            assert frame.MREchoSequence[0].EffectiveEchoTime == told["EchoTime"]
            assert frame.FrameContentSequence[0].TemporalPositionIndex == told[TIME]
            assert frame.FrameContentSequence[0].DimensionIndexValues == [k + 1, told[REPETITION]]
    assert seen == {
        (echo, component, time, b, direction, repetition)
        for echo, component, time, (b, direction), repetition in product(
            (2.3, 4.6), ("magnitude", "phase"), (1, 2), ((0, None), (800, (1, 0, 0)), (800, (0, 1, 0))), (1, 2)
        )
    }


FIELD_MAP, DYNAMIC = "mr/philips_elition_fieldmap_classic_2echo_magphase", "mr/ge_mr750_dynamic_10phases"


def test_repetitions_are_told_apart_by_their_order(test_data: Path) -> None:
    """Nothing but InstanceNumber says which of ten images of a place belongs to which volume."""
    headers = sorted(headers_of(test_data / DYNAMIC), key=lambda header: int(header.InstanceNumber))

    def volumes() -> list[list[str]]:
        return [[plane.sop_instance_uid for plane in stack.planes] for stack in stacks(reversed(headers))]

    uids = [str(header.SOPInstanceUID) for header in headers]
    wanted = [uids[k : k + 15] for k in range(0, 150, 15)]
    assert volumes() == wanted
    for n, header in enumerate(headers):  # the ten images of a slice, then those of the next one
        header.InstanceNumber = n % 15 * 10 + n // 15
    assert volumes() == wanted
    headers[20].InstanceNumber, headers[81].InstanceNumber = headers[81].InstanceNumber, headers[20].InstanceNumber
    with pytest.raises(InputRefused, match="135 images lie where another one lies"):
        volumes()
    for header in headers:
        header.InstanceNumber = 1
    with pytest.raises(InputRefused, match="135 images lie where another one lies"):
        volumes()


def test_a_value_of_each_slice_tells_no_volumes_apart(test_data: Path) -> None:
    """Some scanners write the time since the start of the scan into every image, as TriggerTime."""
    headers = headers_of(test_data / FIELD_MAP)
    for n, header in enumerate(headers):
        header.TriggerTime = 100 + n
    assert [s.geometry.shape for s in stacks(headers)] == [(53, 80, 80)] * 4
    gated = [classic(k, k + 1, TriggerTime=600 + 2.5 * (k // 3)) for k in range(12)]
    assert [s.geometry.shape for s in stacks(gated)] == [(12, 8, 8)]


@pytest.mark.parametrize(
    ("series", "lost", "reason"),
    [
        # the last slice of the phase of the second echo; one of three time points; one between others of all echoes
        (
            FIELD_MAP,
            [212],
            r"1 slice\(s\) missing: a volume of 52 .*EchoTime 4.6, image component phase.* image \d+ lies",
        ),
        (
            DYNAMIC,
            [138, 139, 140],
            r"3 slice\(s\) missing: there are 10 images at most places but 9 where image 3 lies",
        ),
        (DYNAMIC, range(8, 151, 15), "1 slice.s. missing: .*, the first gap between image 7 and image 9;"),
    ],
)
def test_missing_slices_are_named(test_data: Path, series: str, lost: Iterable[int], reason: str) -> None:
    headers = sorted(headers_of(test_data / series), key=lambda header: int(header.InstanceNumber))
    with pytest.raises(InputRefused, match=reason):
        stacks(header for header in headers if int(header.InstanceNumber) not in lost)


def test_volumes_that_lack_slices_at_opposite_ends_are_refused() -> None:
    """The first volume lacks its last two slices, the second its first two, so both have the same length."""
    with pytest.raises(InputRefused, match=r"2 slice\(s\) missing: a volume of 18 slices .*b-value 50.* image 39"):
        stacks(series_of(20, "DiffusionBValue", (50, 800), lost=range(19, 23)))


@pytest.mark.parametrize(
    ("keyword", "values", "key"),
    [("EchoTime", (12, 90), "EchoTime"), ("DiffusionBValue", (50, 800), "b-value"), (TIME, (1, 2), TIME)],
)
def test_slices_of_different_contrast_are_not_stacked(keyword: str, values: tuple[int, int], key: str) -> None:
    """The others were lost, so no slice shares a place: ten of one contrast lie below ten of the other."""
    found = stacks(series_of(20, keyword, values, lost=range(11, 31)))
    assert [(len(stack.planes), stack.told_apart[key]) for stack in found] == [(10, v) for v in values]


def test_components_are_told_apart_by_the_private_attribute_of_ge() -> None:
    headers = series_of(5, "Manufacturer", ["GE MEDICAL SYSTEMS"] * 4)
    for n, header in enumerate(headers):
        header.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        header.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", n // 5)
    components = [stack.told_apart[COMPONENT] for stack in stacks(headers)]
    assert components == ["magnitude", "phase", "real", "imaginary"]


def test_flip_angles_are_no_time_points() -> None:
    """Variable flip angles in one series, for a map of T1."""
    assert differences(stacks(series_of(5, "FlipAngle", (2, 5, 15)))) == "FlipAngle 2, 5, 15"
    header = enhanced(slices=3)
    for frame in header.PerFrameFunctionalGroupsSequence:
        timing = Dataset()
        timing.FlipAngle = 10 * frame.FrameContentSequence[0].TemporalPositionIndex
        frame.MRTimingAndRelatedParametersSequence = [timing]
        del frame.FrameContentSequence[0].TemporalPositionIndex
    assert "FlipAngle 10, 20" in differences(stacks([header]))


def test_an_echo_time_never_belongs_to_a_slice() -> None:
    echo_times = (10, 20, *[30] * 8)
    with pytest.raises(InputRefused, match="only 1 slice in one orientation"):
        stacks(classic(k, k + 1, EchoTime=time) for k, time in enumerate(echo_times))


@pytest.mark.parametrize("series", ["siemens_prisma_epi_mosaic", "uih_umr770_dti_vframe"])
def test_tiles_come_alike_in_implicit_vr(test_data: Path, tmp_path: Path, series: str) -> None:
    """Implicit VR tells no VR of a private attribute."""
    paths = sorted(files(test_data / "mr" / series))[:2]
    explicit = read_volumes(file_blobs(paths))
    for path in paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(tmp_path / path.name, enforce_file_format=True, implicit_vr=True, little_endian=True)
    for one, other in zip(explicit, read_volumes(file_blobs(tmp_path.iterdir())), strict=True):
        assert np.array_equal(one.array, other.array)
        assert np.array_equal(one.geometry.affine, other.geometry.affine)
        assert one.told_apart == other.told_apart


def test_slices_of_a_mosaic_follow_its_normal(test_data: Path) -> None:
    """SliceNormalVector points against the image's normal where the first tile is the uppermost slice."""
    ds = headers_of(test_data / "mr/siemens_prisma_epi_mosaic")[0]
    forward = [plane.position for plane in planes_of(ds)]
    block = ds[CSA_HEADER].value
    at = block.index(b"SliceNormalVector")
    for number in (b"0.12360148", b"0.99233194"):
        block = block[:at] + block[at:].replace(number + b"\0", b"-" + number, 1)
    ds[CSA_HEADER].value = block
    backward = [plane.position for plane in planes_of(ds)]
    assert np.allclose(np.array(backward) - backward[0], forward[0] - np.array(forward), atol=1e-6)
    assert stacks([ds])[0].planes[0].label.startswith("tile 40 of image")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "SIEMENS CSA HEADER, which is missing"),
        (b"", "no readable NumberOfImagesInMosaic"),
        (b"SV10\4\3\2\1" + b"\xff" * 200, "no readable NumberOfImagesInMosaic"),
        (("40 ", "9999999 "), "9999999 slices cannot be"),
        (("40 ", "70 "), "448 x 448 pixels are not 9 x 9 tiles"),
    ],
)
def test_a_mosaic_with_a_broken_header_is_refused(test_data: Path, value: Any, reason: str) -> None:
    ds = headers_of(test_data / "mr/siemens_prisma_epi_mosaic")[0]
    if value is None:
        del ds[CSA_HEADER]
    elif isinstance(value, bytes):
        ds[CSA_HEADER].value = value
    else:
        block, (old, new) = ds[CSA_HEADER].value, (text.encode() for text in value)
        at = block.index(old, block.index(b"NumberOfImagesInMosaic"))
        ds[CSA_HEADER].value = block[:at] + new + block[at + len(new) :]
    with pytest.raises(InputRefused, match=reason):
        list(planes_of(ds))


def test_no_csa_header_does_harm(test_data: Path) -> None:
    """Every header is read or refused at once, whatever it holds."""
    ds = headers_of(test_data / "mr/siemens_prisma_epi_mosaic")[0]
    block, rng = ds[CSA_HEADER].value, np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(block[: rng.integers(len(block))] if rng.random() < 0.3 else block)
        for at in rng.integers(len(broken), size=min(len(broken), 20)) if broken else ():
            broken[at] = rng.integers(256)
        ds[CSA_HEADER].value = bytes(broken)
        with suppress(InputRefused):
            assert len(list(planes_of(ds))) <= 1024


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_a_csa_header_is_read_as_nibabel_does(test_data: Path) -> None:
    from nibabel.nicom.csareader import read as read_by_nibabel

    block = headers_of(test_data / "mr/siemens_prisma_epi_mosaic")[0][CSA_HEADER].value
    theirs = {
        name: [v for v in tag["items"] if v not in ("", b"")] for name, tag in read_by_nibabel(block)["tags"].items()
    }
    ours = {name: [v for v in texts if v] for name, texts in read_csa(block, theirs).items()}
    assert len(ours) == len(theirs) == 100
    for name, values in ours.items():
        assert [type(v)(text) for v, text in zip(theirs[name], values, strict=True)] == theirs[name]


def test_objects_without_an_image_are_passed_over(test_data: Path) -> None:
    """Philips sends raw data in the series of its images."""
    images, raw = (
        files(test_data / "mr/siemens_prisma_t1_sag_HFDR"),
        files(test_data / "mr/philips_elition_rawdata_nonimage"),
    )
    assert np.array_equal(read_volume(file_blobs([*raw, *images])).array, read_volume(file_blobs(images)).array)
    with pytest.raises(InputRefused, match="is not an image"):
        read_volume(file_blobs(raw))


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    forward, backward = read_volume(file_blobs(paths)), read_volume(file_blobs(paths[::-1]))
    assert np.array_equal(forward.array, backward.array)
    assert np.array_equal(forward.geometry.affine, backward.geometry.affine)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PixelSpacing", [0, 1], "PixelSpacing is not positive"),
        ("ImagePositionPatient", None, "ImagePositionPatient is missing"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "not two perpendicular unit vectors"),
        ("ImagePositionPatient", [-30, -40, 11.5], "not evenly spaced|missing"),
    ],
)
def test_a_broken_header_is_named(tmp_path: Path, keyword: str, value: list[float] | None, reason: str) -> None:
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    ds = dcmread(paths[5])
    if value is None:
        delattr(ds, keyword)
    else:
        setattr(ds, keyword, value)
    dcmwrite(paths[5], ds)
    with pytest.raises(InputRefused, match=reason):
        read_volume(file_blobs(paths))


def test_rescale_is_applied(tmp_path: Path) -> None:
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    plain = read_volume(file_blobs(paths)).array
    for path in paths:
        ds = dcmread(path)
        ds.RescaleSlope, ds.RescaleIntercept = "2.5", "-10"
        dcmwrite(path, ds)
    assert np.allclose(read_volume(file_blobs(paths)).array, plain * 2.5 - 10)


def test_a_deflated_file_is_read_like_any_other(tmp_path: Path) -> None:
    """The pixels have no offset in a deflated file (PS3.5 A.5)."""
    paths = sorted(write_oblique(tmp_path, "A^B", "ISO_IR 100").iterdir())
    plain = read_volume(file_blobs(paths)).array
    for path in paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dcmwrite(path, ds)
    assert np.array_equal(read_volume(file_blobs(paths)).array, plain)
