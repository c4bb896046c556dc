"""Parametric Maps as others read them: values and places by dcmqi, the IOD by a validator."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.pm import build_pm
from inference.contract.concepts import DIFFUSION_ANALYSIS
from inference.contract.findings import Code, Findings, ParametricMap
from inference.volumes.planes import functional
from inference.volumes.reading import read_volume
from inference.volumes.volume import Volume
from storage.blobs import file_blobs
from tests.objects.sources import findings, read, write_oblique
from tests.validators import dciodvfy_errors, dcmqi_map

CONTEXT = ObjectContext("NODE", "seed")
ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
UM2_S = Code("um2/s", "UCUM", "square micrometer per second")
MODEL = Code("113250", "DCM", "Mono-exponential ADC model")
T1 = Code("113063", "DCM", "T1")
MS = Code("ms", "UCUM", "millisecond")


def adc_map(volume: Volume) -> ParametricMap:
    """Other values in every voxel, none in a fifth of them."""
    rng = np.random.default_rng(1)
    values = rng.normal(1200, 400, volume.array.shape).astype(np.float32)
    values[rng.random(volume.array.shape) < 0.2] = np.nan
    return ParametricMap("ADC", ADC, UM2_S, values, (volume,), DIFFUSION_ANALYSIS, MODEL)


def written(found: Findings, one: ParametricMap, folder: Path) -> tuple[Dataset, Path]:
    path = folder / "pm.dcm"
    build_pm(found, one, CONTEXT).save_as(path, enforce_file_format=True)
    return dcmread(path), path


def assert_read_back(one: ParametricMap, volume: Volume, file: Path) -> None:
    """Every voxel, at its place in the patient."""
    image = SimpleITK.ReadImage(str(file))
    indices = np.argwhere(np.ones(volume.array.shape, bool))
    corners = [0, volume.array.shape[2] - 1, -volume.array.shape[2], -1]
    for index in indices[corners]:
        lps = volume.geometry.to_lps(index[None].astype(float))[0]
        assert image.TransformPhysicalPointToContinuousIndex(lps.tolist()) == pytest.approx(index[::-1], abs=0.01)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), one.values, equal_nan=True)


def test_values_and_what_they_mean_read_back(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path / "images", "Müller^Änne", "ISO_IR 100"))
    one = adc_map(volume)
    found = replace(findings(volume), maps=(ParametricMap("T1", T1, MS, one.values, (volume,)), one))
    ds, path = written(found, one, tmp_path)
    assert dciodvfy_errors(path) == []
    file, meta = dcmqi_map(path, tmp_path / "dcmqi")
    assert_read_back(one, volume, file)
    for key, code in (("QuantityValueCode", ADC), ("MeasurementUnitsCode", UM2_S), ("MeasurementMethodCode", MODEL)):
        assert (meta[key]["CodeValue"], meta[key]["CodingSchemeDesignator"]) == (code.value, code.scheme)
    assert float(meta["RealWorldValueSlope"]) == 1
    mapping = functional(ds, 0, "RealWorldValueMappingSequence")
    assert mapping is not None
    assert (mapping.LUTLabel, mapping.RealWorldValueIntercept) == ("ADC", 0)
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == np.nanmin(one.values)
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == np.nanmax(one.values)
    assert ds.SeriesNumber == 9004  # the second of two maps
    assert ds.SeriesDescription == "Test mass ADC, RESEARCH - not for diagnosis"
    assert ds.ContentQualification == "RESEARCH"
    assert str(ds.PatientName) == "Müller^Änne"
    assert ds.FrameOfReferenceUID == volume.frame_of_reference_uid
    first = build_pm(found, found.maps[0], CONTEXT)
    assert len({ds.SOPInstanceUID, ds.SeriesInstanceUID, first.SOPInstanceUID, first.SeriesInstanceUID}) == 4
    assert build_pm(found, one, CONTEXT) == build_pm(found, one, CONTEXT)


@pytest.mark.parametrize(
    "series",
    ["siemens_prisma_t1_sag_HFDR", "ge_hdxt_prostate_adc", "siemens_xa30_study/5_anat-T1w_acq-tfl"],
)
def test_maps_of_real_series(tmp_path: Path, test_data: Path, series: str) -> None:
    """Sagittal, oblique and Enhanced; frame 1 of the Enhanced object is the last slice."""
    volume = read_volume(file_blobs((test_data / "mr" / series).iterdir()))
    one = adc_map(volume)
    ds, path = written(replace(findings(volume), maps=(one,)), one, tmp_path)
    assert dciodvfy_errors(path) == []
    file, _ = dcmqi_map(path, tmp_path / "dcmqi")
    assert_read_back(one, volume, file)
    for k, frame in enumerate(volume.frames):
        derivation = functional(ds, k, "DerivationImageSequence")
        assert derivation is not None
        (reference,) = derivation.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == frame.sop_instance_uid
        assert reference.get("ReferencedFrameNumber") == frame.frame_number


def test_a_map_without_any_value_is_an_object_like_others(tmp_path: Path) -> None:
    volume = read(write_oblique(tmp_path / "images", "A^B", "ISO_IR 100"))
    one = ParametricMap("T1", T1, MS, np.full(volume.array.shape, np.nan, np.float32), (volume,))
    ds, path = written(replace(findings(volume), maps=(one,)), one, tmp_path)
    assert dciodvfy_errors(path) == []
    assert np.isnan(ds.pixel_array).all()
