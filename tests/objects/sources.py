"""Volumes and findings for tests of the result objects, read with pydicom alone."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from inference.contract.findings import Algorithm, Code, Findings, Measurement, Segment
from inference.volumes.geometry import Geometry
from inference.volumes.volume import FrameReference, Volume
from storage.blobs import FileBlob

MASS = Code("4147007", "SCT", "Mass")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
VOLUME = Code("118565006", "SCT", "Volume")
CM3 = Code("cm3", "UCUM", "cubic centimeter")


def _functional(ds: Dataset, k: int, group: str) -> Dataset:
    frame = ds.PerFrameFunctionalGroupsSequence[k]
    item: Dataset = (frame if group in frame else ds.SharedFunctionalGroupsSequence[0])[group][0]
    return item


def read(folder: Path) -> Volume:
    """The first volume of a series, slices sorted along the normal."""
    found = []  # (position along the normal, position, orientation, spacing, pixels, reference, header)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        ds = dcmread(path)
        if "PerFrameFunctionalGroupsSequence" in ds:
            planes = [
                (
                    _functional(ds, k, "PlanePositionSequence").ImagePositionPatient,
                    _functional(ds, k, "PlaneOrientationSequence").ImageOrientationPatient,
                    _functional(ds, k, "PixelMeasuresSequence").PixelSpacing,
                    k + 1,
                )
                for k in range(int(ds.NumberOfFrames))
            ]
        else:
            planes = [(ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, None)]
        pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
        for (position, orientation, spacing, number), image in zip(planes, pixels, strict=True):
            o = np.array(orientation, float)
            at = round(float(np.cross(o[:3], o[3:]) @ np.array(position, float)), 3)
            reference = FrameReference(str(ds.SOPClassUID), str(ds.SOPInstanceUID), number, FileBlob(path))
            if all(at != other[0] for other in found):
                found.append((at, np.array(position, float), o, np.array(spacing, float), image, reference, ds))
        del ds
    found.sort(key=lambda f: f[0])
    first, last, ds = found[0], found[-1], found[0][6]
    affine = np.eye(4)
    affine[:3, 0] = (last[1] - first[1]) / (len(found) - 1)
    affine[:3, 1] = first[2][3:] * first[3][0]
    affine[:3, 2] = first[2][:3] * first[3][1]
    affine[:3, 3] = first[1]
    array = np.stack([f[4] for f in found]).astype(np.float32)
    return Volume(
        array=array,
        geometry=Geometry(array.shape, affine),
        frames=tuple(f[5] for f in found),
        study_instance_uid=str(ds.StudyInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        frame_of_reference_uid=str(ds.FrameOfReferenceUID),
        modality=str(ds.Modality),
    )


def blobs(volume: Volume) -> tuple[Segment, ...]:
    """Two asymmetric ellipsoids off the centre, so that a mirrored one lies elsewhere."""
    s, r, c = volume.array.shape
    grid = np.indices(volume.array.shape)
    segments = []
    for n, (centre, radius) in enumerate(
        (((0.35, 0.3, 0.25), (0.2, 0.12, 0.1)), ((0.6, 0.65, 0.4), (0.25, 0.1, 0.15))), 1
    ):
        distance = sum(((grid[a] - centre[a] * size) / (radius[a] * size)) ** 2 for a, size in enumerate((s, r, c)))
        mask = np.asarray(distance <= 1)
        cm3 = float(mask.sum()) * volume.geometry.voxel_volume / 1000
        segments.append(
            Segment(
                label=f"Mass {n}",
                mask=mask,
                category=ABNORMAL,
                type=MASS,
                color=(220, 60 * n, 30),
                tracking_id=f"Mass {n}",
                tracking_uid=f"2.25.{1000 + n}",
                measurements=(Measurement(VOLUME, cm3, CM3),),
            )
        )
    return tuple(segments)


def findings(volume: Volume, segments: tuple[Segment, ...] | None = None) -> Findings:
    return Findings(
        source=volume,
        inputs=(volume,),
        segments=blobs(volume) if segments is None else segments,
        algorithm=Algorithm("TestNet", "1.0", "Test maker", "ab" * 32, "simulated phantoms"),
        title="Test mass",
        started_at=datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        notes=("Only one sequence was available.",),
    )


def write_oblique(folder: Path, name: str, charset: str | list[str], offset: str | None = None) -> Path:
    """A small doubly oblique MR series of a person with that name."""
    a, b = np.deg2rad(20), np.deg2rad(12)
    x = np.array([np.cos(b), 0, -np.sin(b)])
    y = np.array([np.sin(a) * np.sin(b), np.cos(a), np.sin(a) * np.cos(b)])
    normal = np.cross(x, y)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(12):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SpecificCharacterSet = charset
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = name, "P-1", "19700101", "O"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20261101", "101010", "A1", "1"
        if offset is not None:
            ds.TimezoneOffsetFromUTC = offset
        ds.ReferringPhysicianName, ds.Manufacturer, ds.Modality = "", "Maker", "MR"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 500, 10, 1
        ds.SeriesNumber, ds.InstanceNumber, ds.PatientPosition = 1, k + 1, "HFS"
        ds.PositionReferenceIndicator, ds.SliceThickness, ds.SpacingBetweenSlices = "", 4, 4
        position = np.array([-30.0, -40.0, 10.0]) + k * 4.0 * normal
        ds.ImagePositionPatient = [float(f"{v:.6f}") for v in position]
        ds.ImageOrientationPatient = [float(f"{v:.8f}") for v in (*x, *y)]
        ds.PixelSpacing, ds.Rows, ds.Columns = [1.5, 1.25], 50, 46
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = rng.integers(0, 500, (50, 46), np.uint16).tobytes()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / f"{k:03}.dcm", enforce_file_format=True)
    return folder
