"""What the senders send: valid MR objects of real size, made here, with UIDs that are new for every run.

A server that has seen a SOP Instance UID does less the second time. So before each run the UIDs of all files are
changed in place: they have a number of fixed width in them. Images with the long headers of scanners are made by
`benchmarks/vendors`; those here have short ones.
"""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
)

UID_ROOT = "1.2.826.0.1.3680043.8.498.73"  # below pydicom's
FIRST_RUN = 10_000_000  # eight digits, and so are all the others
PRIVATE_BYTES = 5000  # scanners add about as much of their own to each image
SMALL_PRIVATE_BYTES = 350  # they fill an image of 16² up to 2 KB
STUDY_LENGTH = 500  # images, of the small ones
PICTURES = 8  # different pixels; the files share them


@dataclass(frozen=True)
class Workload:
    """Files of one kind, `size` bytes in all."""

    name: str
    description: str
    paths: tuple[Path, ...]
    size: int

    def head(self, count: int) -> "Workload":
        """The same with at most `count` files."""
        paths = self.paths[:count]
        return Workload(
            self.name, f"{len(paths)} of the {self.description}", paths, sum(p.stat().st_size for p in paths)
        )


class Renewer:
    """Gives files the UIDs of a new run."""

    def __init__(self) -> None:
        self._run = FIRST_RUN
        self._places: dict[Path, list[int]] = {}  # where the number of the run stands in each file

    def renew(self, paths: Sequence[Path]) -> None:
        self._run += 1
        number = str(self._run).encode()
        for path in paths:
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
                if path not in self._places:
                    self._places[path] = list(_places(content))
                assert self._places[path], f"{path} has no UID of ours"
                for at in self._places[path]:
                    content[at : at + len(number)] = number

    def forget(self, paths: Sequence[Path]) -> None:
        """For files that are removed: others of the same name have their UIDs elsewhere."""
        for path in paths:
            self._places.pop(path, None)


def _places(content: mmap.mmap) -> Iterator[int]:
    mark = f"{UID_ROOT}.".encode()
    at = content.find(mark)
    while at >= 0:
        yield at + len(mark)
        at = content.find(mark, at + len(mark))


def mr_slices(folder: Path, name: str, matrix: int, count: int, *, compress: bool = False) -> Workload:
    """`count` MR images of matrix², 16 bits, in one series; JPEG-LS lossless with `compress`."""
    folder.mkdir(parents=True)
    images = list(pictures(matrix))
    encoded = [encapsulate([bytes(jpeg_ls.encode_array(p))]) if compress else p.tobytes() for p in images]
    paths = []
    for i in range(count):
        ds = _mr_image(matrix, i, JPEGLSLossless if compress else ExplicitVRLittleEndian)
        ds.add_new("PixelData", "OB" if compress else "OW", encoded[i % PICTURES])
        if compress:
            ds["PixelData"].is_undefined_length = True
        paths.append(folder / f"{i:06}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    what = f"{count} MR images of {matrix}²{', JPEG-LS' if compress else ''}"
    return described(name, what, paths)


def small_images(folder: Path, name: str, count: int) -> Workload:
    """`count` MR images of 2 KB each, in studies of STUDY_LENGTH."""
    folder.mkdir(parents=True)
    picture = next(pictures(16)).tobytes()
    paths = []
    for i in range(count):
        ds = _mr_image(16, i, ExplicitVRLittleEndian, SMALL_PRIVATE_BYTES)
        ds.StudyInstanceUID += f".{i // STUDY_LENGTH}"
        ds.SeriesInstanceUID += f".{i // STUDY_LENGTH}"
        ds.add_new("PixelData", "OW", picture)
        paths.append(folder / f"{i:06}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return described(name, f"{count} MR images of 16²", paths)


def enhanced_mr(folder: Path, name: str, megabytes: int) -> Workload:
    """One Enhanced MR object of 256² frames."""
    folder.mkdir(parents=True)
    frames = max(1, megabytes * 10**6 // (256 * 256 * 2))
    ds = _common(EnhancedMRImageStorage, 0, 256, ExplicitVRLittleEndian)
    ds.NumberOfFrames = frames
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "NONE"]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1, 1], 1
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame(i) for i in range(frames)]
    images = [p.tobytes() for p in pictures(256)]
    ds.add_new("PixelData", "OW", b"".join(images[i % PICTURES] for i in range(frames)))
    path = folder / "enhanced.dcm"
    ds.save_as(path, enforce_file_format=True)
    return described(name, f"one Enhanced MR of {frames} frames", [path])


def described(name: str, what: str, paths: list[Path]) -> Workload:
    size = sum(p.stat().st_size for p in paths)
    each = size / len(paths)
    shown = f"{each / 1e6:.0f} MB" if each > 2e6 else f"{each / 1e3:.0f} KB"
    return Workload(name, f"{what} ({shown} each)" if len(paths) > 1 else f"{what} ({shown})", tuple(paths), size)


def pictures(matrix: int) -> Iterator["np.ndarray[tuple[int, int], np.dtype[np.uint16]]"]:
    """Smooth anatomy under noise, as MR has it: it compresses by about a half."""
    generator = np.random.default_rng(matrix)
    y, x = np.mgrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    for i in range(PICTURES):
        smooth = 900 * np.exp(-((x - 0.05 * i) ** 2 + y**2) * 3)
        yield (smooth + generator.normal(60, 12, (matrix, matrix))).clip(0, 4095).astype(np.uint16)


def _frame(index: int) -> Dataset:
    frame, content, plane = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.DimensionIndexValues = [1, index + 1]
    plane.ImagePositionPatient = [0, 0, index]
    frame.FrameContentSequence, frame.PlanePositionSequence = [content], [plane]
    return frame


def _mr_image(matrix: int, index: int, transfer_syntax: UID, private_bytes: int = PRIVATE_BYTES) -> Dataset:
    ds = _common(MRImageStorage, index, matrix, transfer_syntax)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
    ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 12, 500, 1
    ds.SliceThickness, ds.PixelSpacing = 3, [1, 1]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3 * index], [1, 0, 0, 0, 1, 0]
    ds.private_block(0x0029, "DICOM NODE BENCHMARK", create=True).add_new(0x10, "OB", bytes(private_bytes))
    return ds


def _common(sop_class_uid: UID, index: int, matrix: int, transfer_syntax: UID) -> Dataset:
    uid = f"{UID_ROOT}.{FIRST_RUN}"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = f"{uid}.3.{100_000 + index}"
    ds.StudyInstanceUID = f"{uid}.1"
    ds.SeriesInstanceUID = f"{uid}.2"
    ds.FrameOfReferenceUID = f"{uid}.4"
    ds.Modality, ds.Manufacturer = "MR", "dicom-node benchmark"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Benchmark^Phantom", "BENCH", "", ""
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260101", "120000", "", "1"
    ds.ReferringPhysicianName, ds.StudyDescription, ds.SeriesDescription = "", "Benchmark", "Benchmark"
    ds.SeriesNumber, ds.InstanceNumber, ds.PositionReferenceIndicator = 1, index + 1, ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = matrix
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    return ds
