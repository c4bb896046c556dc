"""MR Image objects (PS3.3 A.4) whose headers tell the truth about how the images came to be."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from inference.volumes.geometry import Affine

LARGEST_STORED = 4095  # 12 bits, as scanners have


@dataclass(frozen=True)
class Quantity:
    """The quantity that a map holds. `unit` is a code of UCUM."""

    label: str
    concept: Any  # a coded concept of PS3.16
    unit: Any


ADC = Quantity("ADC", codes.DCM.ApparentDiffusionCoefficient, codes.UCUM.SquareMicrometerPerSecond)
T1 = Quantity("T1", codes.DCM.T1, codes.UCUM.Millisecond)
T2 = Quantity("T2", codes.DCM.T2, codes.UCUM.Millisecond)


@dataclass(frozen=True)
class SeriesProtocol:
    """The acquisition of a series. Times in ms, the flip angle in degrees. `attributes` may add or replace any other.

    With a `quantity` the series is a map, whose values are in the quantity's unit; otherwise intensities are arbitrary.
    `bright` is the value that is displayed as white; it is stored as a quarter of the largest possible number. Without
    `bright`, the maximum of the images is used.
    """

    description: str
    repetition_time: float
    echo_time: float
    flip_angle: float
    scanning_sequence: str
    sequence_variant: str
    echo_train_length: int
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")
    scan_options: str = ""
    acquisition_type: str = "2D"
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    quantity: Quantity | None = None
    bright: float | None = None


@dataclass(frozen=True, eq=False)
class Stack:
    """A volume of a series: `array` is [slice, row, column].

    If the series has a `quantity`, the values are in its unit; otherwise they are arbitrary intensities.
    """

    array: NDArray[np.float32]
    affine: Affine  # (slice, row, column, 1) to LPS mm
    b_value: float | None = None  # s/mm2


@dataclass(frozen=True)
class StudyAttributes:
    """The attributes that all instances of a study share."""

    study_instance_uid: str
    frame_of_reference_uid: str
    patient_id: str
    patient_name: str
    acquired_at: datetime
    body_part: str
    manufacturer: str
    model_name: str
    field_strength: float  # T
    study_description: str

    @property
    def accession_number(self) -> str:
        """The accession number, which the study's UID makes, so that the same study always has the same one."""
        return f"A{int(hashlib.sha256(self.study_instance_uid.encode()).hexdigest(), 16) % 10**9:09d}"


def write_series(
    folder: Path, common: StudyAttributes, protocol: SeriesProtocol, number: int, series_instance_uid: str,
    instance_uids: Sequence[str], stacks: Sequence[Stack],
) -> list[Path]:  # fmt: skip
    """Write one file per slice and stack into `folder`, in the order of stacks and slices."""
    folder.mkdir(parents=True, exist_ok=True)
    slope = 1.0 if protocol.quantity else _slope(stacks, protocol.bright)
    white = protocol.bright and protocol.bright / slope
    uids = iter(instance_uids)
    paths: list[Path] = []
    for stack in stacks:
        for k in range(stack.array.shape[0]):
            ds = _instance(common, protocol, number, series_instance_uid, next(uids))
            ds.InstanceNumber = len(paths) + 1
            _describe_plane(ds, stack, k)
            _describe_pixels(ds, stack.array[k] / slope, white)
            if stack.b_value is not None:
                ds.DiffusionBValue = float(stack.b_value)
                ds.DiffusionDirectionality = "ISOTROPIC" if stack.b_value > 0 else "NONE"
            if protocol.quantity:
                _describe_quantity(ds, protocol.quantity)
            path = folder / f"{len(paths) + 1:04d}.dcm"
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths


def _slope(stacks: Sequence[Stack], bright: float | None) -> float:
    """Return one intensity scale for all stacks of a series: diffusion weightings must stay comparable."""
    largest = float(max(stack.array.max() for stack in stacks)) if bright is None else 4 * bright
    return max(largest / LARGEST_STORED, 1e-6)


def _instance(
    common: StudyAttributes, protocol: SeriesProtocol, number: int, series_uid: str, instance_uid: str
) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(instance_uid)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = list(protocol.image_type)
    date, time = common.acquired_at.strftime("%Y%m%d"), common.acquired_at.strftime("%H%M%S")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber = common.accession_number
    ds.Modality = "MR"
    ds.Manufacturer = common.manufacturer
    ds.ManufacturerModelName = common.model_name
    ds.InstitutionName = "Simulated hospital"
    ds.ReferringPhysicianName = "Referring^Physician"
    ds.RequestAttributesSequence = [_request(common)]
    ds.StudyDescription = common.study_description
    ds.SeriesDescription = ds.ProtocolName = protocol.description
    ds.PatientName = common.patient_name
    ds.PatientID = common.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.BodyPartExamined = common.body_part
    ds.ScanningSequence = protocol.scanning_sequence
    ds.SequenceVariant = protocol.sequence_variant
    ds.ScanOptions = protocol.scan_options or None
    ds.MRAcquisitionType = protocol.acquisition_type
    ds.RepetitionTime = protocol.repetition_time
    ds.EchoTime = protocol.echo_time
    ds.FlipAngle = protocol.flip_angle
    ds.EchoTrainLength = protocol.echo_train_length
    ds.MagneticFieldStrength = common.field_strength
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = common.study_instance_uid
    ds.SeriesInstanceUID = series_uid
    ds.StudyID = "1"
    ds.SeriesNumber = number
    ds.AcquisitionNumber = 1
    ds.Laterality = "R"
    ds.FrameOfReferenceUID = common.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    for keyword, value in protocol.attributes.items():
        setattr(ds, keyword, value)
    return ds


def _request(common: StudyAttributes) -> Dataset:
    """Return the order that the study was made for (PS3.3 table 10-9)."""
    request = Dataset()
    request.AccessionNumber = common.accession_number
    request.RequestedProcedureID = f"RP-{common.accession_number}"[:16]
    request.RequestedProcedureDescription = common.study_description
    request.ScheduledProcedureStepID = f"SPS-{common.accession_number}"[:16]
    request.ScheduledProcedureStepDescription = common.study_description
    return request


def _describe_plane(ds: Dataset, stack: Stack, k: int) -> None:
    """Add the Image Plane Module (PS3.3 C.7.6.2): positions and directions from the columns of the affine."""
    steps, origin = stack.affine[:3, :3], stack.affine[:3, 3]
    along_slice, along_row_index, along_column_index = (float(n) for n in np.linalg.norm(steps, axis=0))
    # The first direction is that of increasing column index, the second of increasing row index.
    across, down = steps[:, 2] / along_column_index, steps[:, 1] / along_row_index
    ds.ImageOrientationPatient = [_decimal(v) for v in (*across, *down)]
    ds.ImagePositionPatient = [_decimal(v) for v in origin + k * steps[:, 0]]
    ds.PixelSpacing = [_decimal(along_row_index), _decimal(along_column_index)]
    ds.SliceThickness = ds.SpacingBetweenSlices = _decimal(along_slice)
    ds.SliceLocation = _decimal(float(np.dot(ds.ImagePositionPatient, np.cross(across, down))))


def _describe_pixels(ds: Dataset, stored: NDArray[np.float32], white: float | None) -> None:
    pixels = np.clip(np.rint(stored), 0, 65535).astype("<u2")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    white = white or float(pixels.max())
    ds.WindowCenter = _decimal(white / 2)
    ds.WindowWidth = _decimal(max(white, 1.0))
    ds.PixelData = pixels.tobytes()


def _describe_quantity(ds: Dataset, quantity: Quantity) -> None:
    """State the unit of the stored values, once as a rescale and once as a real-world value mapping."""
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, quantity.unit.value
    mapping = Dataset()
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, 65535
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 1.0, 0.0
    mapping.LUTExplanation = mapping.LUTLabel = quantity.label
    mapping.MeasurementUnitsCodeSequence = [_code(quantity.unit)]
    definition = Dataset()
    definition.ValueType = "CODE"
    definition.ConceptNameCodeSequence = [_code(codes.SCT.Quantity)]
    definition.ConceptCodeSequence = [_code(quantity.concept)]
    mapping.QuantityDefinitionSequence = [definition]
    ds.RealWorldValueMappingSequence = [mapping]


def _code(code: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _decimal(value: float) -> float:
    """Round to as many digits as a decimal string of 16 characters always holds."""
    return float(f"{value:.9g}") + 0.0
