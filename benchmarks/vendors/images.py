"""MR images with headers as long as scanners write them: 150 to 300 elements, nested sequences, private groups.

The series of a workload are of one vendor after the other, and the series of one vendor are one study. Nothing in them
is copied from a scanner: the elements are those that its vendor documents, their values are made up, and the same for
the same arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from benchmarks.vendors.csa import image_header, series_header
from benchmarks.vendors.private import BLOCKS, Vendor, creators, private_elements
from benchmarks.workloads import FIRST_RUN, PICTURES, UID_ROOT, Workload, described, pictures

SERIES_LENGTH = 20  # images
CSA_SERIES_BYTES = 90_000  # with the header of the image, about 100 KB
SPACING = 3.3  # mm
B_VALUES = (0, 800)
B_VALUE_ELEMENTS = {
    Vendor.SIEMENS: (0x0019100C, "IS"),
    Vendor.GE: (0x00431039, "IS"),
    Vendor.PHILIPS: (0x20011003, "FL"),
    Vendor.UIH: (0x00651009, "FD"),
}


@dataclass(frozen=True)
class Protocol:
    description: str
    sequence: str
    variant: str
    repetition_time: float
    echo_time: float
    train: int
    options: str = ""
    is_diffusion: bool = False


PROTOCOLS = (
    Protocol("t1 tse tra", "SE", "SK", 550, 12, 3),
    Protocol("t2 tse fs tra", "SE", "SK", 4200, 81, 15, options="FS"),
    Protocol("ep2d diff tra", "EP", "SK", 5100, 66, 1, options="FS", is_diffusion=True),
    Protocol("t1 tse fs tra post contrast", "SE", "SK", 610, 12, 3, options="FS"),
)


def vendor_images(
    folder: Path,
    name: str,
    matrix: int,
    count: int,
    *,
    series_length: int = SERIES_LENGTH,
    vendors: Sequence[Vendor] = tuple(Vendor),
) -> Workload:
    """`count` MR images of matrix², 16 bits, in series of `series_length`."""
    folder.mkdir(parents=True)
    pixels = [picture.tobytes() for picture in pictures(matrix)]
    paths = []
    shared = Dataset()
    for i in range(count):
        series, k = divmod(i, series_length)
        vendor = vendors[series % len(vendors)]
        protocol = PROTOCOLS[series // len(vendors) % len(PROTOCOLS)]
        if k == 0:
            shared = _series(vendor, protocol, series, series % len(vendors), matrix)
        ds = Dataset(shared)  # it shares the elements
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        _vary(ds, vendor, protocol, i, k)
        ds.add_new("PixelData", "OW", pixels[i % PICTURES])
        paths.append(folder / f"{i:06}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return described(name, f"{count} MR images of {matrix}² with long headers", paths)


def _uid(kind: int, number: int) -> str:
    return f"{UID_ROOT}.{FIRST_RUN}.{kind}.{number}"


def _series(vendor: Vendor, protocol: Protocol, series: int, study: int, matrix: int) -> Dataset:
    """Everything that the images of a series share."""
    ds = Dataset()
    values = {**_of_study(vendor, study), **_of_series(protocol, series, study), **_of_pixels(matrix)}
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    for element in (*creators(vendor), *private_elements(vendor, 0, varying=False)):
        ds.add(element)
    if vendor is Vendor.SIEMENS:
        ds.add(DataElement(0x00291020, "OB", series_header(series, CSA_SERIES_BYTES)))
    if vendor is Vendor.PHILIPS:
        ds.add(_philips_stack())
        ds[BLOCKS[vendor][0].tag(0x13)].value = 49 if protocol.is_diffusion else 1  # EPI factor
        ds[BLOCKS[vendor][0].tag(0x21)].value = "Y" if protocol.options else "N"  # SPIR
    return ds


def _of_study(vendor: Vendor, study: int) -> dict[str, Any]:
    return {
        "SpecificCharacterSet": "ISO_IR 100", "StudyInstanceUID": _uid(1, study), "StudyID": str(study + 1),
        "FrameOfReferenceUID": _uid(4, study), "PositionReferenceIndicator": "", "StudyDate": "20260101",
        "StudyTime": "120000.125", "SeriesDate": "20260101", "AcquisitionDate": "20260101", "ContentDate": "20260101",
        "InstanceCreationDate": "20260101", "AccessionNumber": f"B{study:07}", "Modality": "MR",
        "Manufacturer": vendor.value, "ManufacturerModelName": f"Benchmark {vendor.name}",
        "InstitutionName": "Benchmark hospital", "InstitutionAddress": "Street 1, 12345 City",
        "InstitutionalDepartmentName": "Radiology", "StationName": "MR1", "ReferringPhysicianName": "Referring^One",
        "PerformingPhysicianName": "Performing^One", "OperatorsName": "Operator^One", "StudyDescription": "MR thigh",
        "PatientName": "Benchmark^Phantom", "PatientID": "BENCH", "PatientBirthDate": "19700101", "PatientSex": "O",
        "PatientAge": "055Y", "PatientSize": 1.75, "PatientWeight": 80, "PregnancyStatus": 4,
        "DeviceSerialNumber": "12345", "SoftwareVersions": "benchmark 1", "MagneticFieldStrength": 3,
        "ImagingFrequency": 123.2, "ImagedNucleus": "1H", "PatientPosition": "FFS", "BodyPartExamined": "THIGH",
        "RequestedProcedureDescription": "MR thigh", "PerformedStationAETitle": "BENCH",
        "PerformedProcedureStepStartDate": "20260101", "PerformedProcedureStepStartTime": "120000",
        "PerformedProcedureStepEndDate": "20260101", "PerformedProcedureStepEndTime": "123000",
        "PerformedProcedureStepID": "PPS1", "PerformedProcedureStepDescription": "MR thigh",
        "CommentsOnThePerformedProcedureStep": "", "RequestingPhysician": "Requesting^One",
        "RequestedProcedurePriority": "ROUTINE", "StudyComments": "", "InstanceCreatorUID": _uid(5, study),
        "ProcedureCodeSequence": [_code("MRTHIGH", "MR thigh without and with contrast")],
        "PerformedProtocolCodeSequence": [_code("THIGH1", "Thigh standard")],
        "RequestAttributesSequence": [_request(study)],
        "ReferencedStudySequence": [_reference("1.2.840.10008.3.1.2.3.1", _uid(1, study))],
        "ReferencedPerformedProcedureStepSequence": [_reference("1.2.840.10008.3.1.2.3.3", _uid(6, study))],
    }  # fmt: skip


def _of_series(protocol: Protocol, series: int, study: int) -> dict[str, Any]:
    kind = "DIFFUSION" if protocol.is_diffusion else "M"
    localizer = [_reference(MRImageStorage, _uid(7, n)) for n in range(3)]
    return {
        "SeriesInstanceUID": _uid(2, series), "SeriesNumber": series + 1, "AcquisitionNumber": 1,
        "SeriesDescription": protocol.description, "ProtocolName": protocol.description, "SOPClassUID": MRImageStorage,
        "SeriesTime": f"12{series % 60:02}00.500", "ImageType": ["ORIGINAL", "PRIMARY", kind, "NONE"],
        "ScanningSequence": protocol.sequence, "SequenceVariant": protocol.variant, "ScanOptions": protocol.options,
        "SequenceName": "*ep_b" if protocol.is_diffusion else "*tse2d1_3", "MRAcquisitionType": "2D", "AngioFlag": "N",
        "RepetitionTime": protocol.repetition_time, "EchoTime": protocol.echo_time, "NumberOfAverages": 2,
        "EchoNumbers": 1, "EchoTrainLength": protocol.train, "FlipAngle": 150, "VariableFlipAngleFlag": "N",
        "SliceThickness": 3, "SpacingBetweenSlices": SPACING, "NumberOfPhaseEncodingSteps": 240, "PercentSampling": 80,
        "PercentPhaseFieldOfView": 100, "PixelBandwidth": 228, "TransmitCoilName": "Body", "ReceiveCoilName": "BO1",
        "AcquisitionMatrix": [0, 320, 256, 0], "InPlanePhaseEncodingDirection": "ROW", "SAR": 0.71, "dBdt": 0,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagesInAcquisition": SERIES_LENGTH, "Laterality": "R",
        "ReferencedImageSequence": localizer, "DerivationDescription": "", "LossyImageCompression": "00",
        "ContrastBolusAgent": "", "HeartRate": 0, "CardiacNumberOfImages": 0, "TriggerWindow": 0,
        "ReconstructionDiameter": 256, "BeatRejectionFlag": "N", "PresentationLUTShape": "IDENTITY",
        "TemporalPositionIdentifier": 1, "NumberOfTemporalPositions": 1, "BurnedInAnnotation": "NO",
        "LossyImageCompressionRatio": 1, "QualityControlImage": "NO", "SeriesType": ["STATIC", "IMAGE"],
        "FilterType": "NONE", "CountsSource": "EMISSION", "AcquisitionDuration": 133.5, "ImageComments": "",
    }  # fmt: skip


def _of_pixels(matrix: int) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": matrix, "Columns": matrix,
        "PixelSpacing": [256 / matrix, 256 / matrix], "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11,
        "PixelRepresentation": 0, "WindowCenter": 500, "WindowWidth": 1000, "WindowCenterWidthExplanation": "Algo1",
        "RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US",
    }  # fmt: skip


def _vary(ds: Dataset, vendor: Vendor, protocol: Protocol, image: int, k: int) -> None:
    """Add what differs between the images of a series: the `k`th of it, the `image`th of all."""
    b_value = B_VALUES[k % len(B_VALUES)] if protocol.is_diffusion else None
    position = -40 + SPACING * (k if b_value is None else k // len(B_VALUES))
    ds.SOPInstanceUID = _uid(3, 100_000 + image)
    ds.InstanceNumber = k + 1
    ds.ImagePositionPatient = [-128, -128, round(position, 3)]
    ds.SliceLocation = round(position, 3)
    ds.AcquisitionTime = ds.ContentTime = ds.InstanceCreationTime = f"1210{k % 60:02}.{image % 1000:03}"
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 0, 900 + k
    for element in private_elements(vendor, k, varying=True):
        ds.add(element)
    if b_value is not None:
        tag, vr = B_VALUE_ELEMENTS[vendor]
        ds.add(DataElement(tag, vr, b_value))
    if vendor is Vendor.SIEMENS:
        values = {"NumberOfImagesInMosaic": (), "SliceNormalVector": ("0.00000000", "0.00000000", "1.00000000")}
        values["SliceLocation"] = (f"{position:.8f}",)
        if b_value is not None:
            values["B_value"] = (str(b_value),)
        ds.add(DataElement(0x00291010, "OB", image_header(values)))


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99BENCH", meaning
    return item


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _request(study: int) -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = f"RP{study}", f"SPS{study}"
    item.RequestedProcedureDescription = item.ScheduledProcedureStepDescription = "MR thigh"
    item.ScheduledProtocolCodeSequence = [_code("THIGH1", "Thigh standard")]
    return item


def _philips_stack() -> DataElement:
    """A private sequence whose item has a creator of its own."""
    block = BLOCKS[Vendor.PHILIPS][0]
    item = Dataset()
    item.add(DataElement(0x20010010, "LO", block.creator))
    item.add(DataElement(block.tag(0x2D), "SS", SERIES_LENGTH))
    item.add(DataElement(block.tag(0x32), "FL", 64.5))
    item.add(DataElement(block.tag(0x33), "CS", "FH"))
    item.add(DataElement(block.tag(0x36), "CS", "PARALLEL"))
    return DataElement(block.tag(0x5F), "SQ", [item])
