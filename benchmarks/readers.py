"""Readers of a series to one volume: the node, pydicom with numpy alone, SimpleITK."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from benchmarks.meter import Measured, Meter
from storage.blobs import Blob
from storage.log.journal import Journal
from storage.log.segments.frames import FrameKind
from storage.log.segments.store import Segments
from storage.records.instances import Address, ReceivedInstance

FEW = 4
JOURNALS, RECEIVER = "journals", "receive-0"


def node_read(folder: Path, output: Path) -> Measured:
    """From where a receiver has logged them."""
    from inference.volumes.reading import read_volume

    blobs = logged_images(folder)
    read_volume(blobs[:FEW])
    return measured(lambda: read_volume(blobs).array, output)


def pydicom_read(folder: Path, output: Path) -> Measured:
    """The least there is to do: files in order, each read once, into one array; nothing is checked, nothing held."""

    def read(paths: list[Path]) -> NDArray[np.float32]:
        array = np.empty((0, 0, 0), np.float32)
        for k, path in enumerate(paths):
            ds = dcmread(path)
            if k == 0:
                array = np.empty((len(paths), ds.Rows, ds.Columns), np.float32)
            slope, intercept = np.float32(ds.get("RescaleSlope", 1)), np.float32(ds.get("RescaleIntercept", 0))
            array[k] = ds.pixel_array * slope + intercept
        return array

    return reading(read, folder, output)


def simpleitk_read(folder: Path, output: Path) -> Measured:
    import SimpleITK

    def read(paths: list[Path]) -> NDArray[np.float32]:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
        image: NDArray[np.float32] = SimpleITK.GetArrayFromImage(reader.Execute())
        return image

    return reading(read, folder, output)


def reading(read: Callable[[list[Path]], NDArray[np.float32]], folder: Path, output: Path) -> Measured:
    """The second time counts; the first one loads what later ones share, and is of FEW files."""
    paths = sorted((folder / "images").iterdir())
    few = output.parent / "few"
    few.mkdir()
    read([Path(shutil.copy(path, few)) for path in paths[:FEW]])
    return measured(lambda: read(paths), output)


def measured(read: Callable[[], NDArray[np.float32]], output: Path) -> Measured:
    meter = Meter()
    array = read()
    found = meter.read()
    np.save(output, array[:, ::64, ::64])
    return found


def log_images(folder: Path) -> None:
    """Log the images of `folder` as a receiver does, in their order."""
    journal = Journal(folder / JOURNALS / RECEIVER)
    journal.open()
    for path in sorted((folder / "images").iterdir()):
        ds = dcmread(path, stop_before_pixels=True)
        instance = ReceivedInstance(
            sop_instance_uid=ds.SOPInstanceUID,
            sop_class_uid=ds.SOPClassUID,
            series_instance_uid=ds.SeriesInstanceUID,
            study_instance_uid=ds.StudyInstanceUID,
            transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
            modality=ds.Modality,
            source_ae_title="BENCHMARK",
            association="1",
            received_at=datetime.now(UTC),
        )
        journal.store(instance, path.read_bytes())
    journal.close()


def logged_images(folder: Path) -> list[Blob]:
    """Return the blobs of the images that were logged."""
    segments, blobs = Segments(folder / JOURNALS), []
    for number in segments.numbers(RECEIVER):
        with segments.open(RECEIVER, number) as reader:
            for frame in reader.frames(0):
                if frame.kind is FrameKind.INSTANCE:
                    place = (frame.offset, frame.body_offset, frame.head.body_bytes)
                    blobs.append(segments.blob(Address(RECEIVER, number, *place), ""))
    return blobs
