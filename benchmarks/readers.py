"""Readers of a series to one volume: the node, pydicom with numpy alone, SimpleITK."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from benchmarks.meter import Measured, Meter


def node_read(folder: Path, output: Path) -> Measured:
    from inference.volumes.reading import read_volume
    from storage.blobs import file_blobs

    return reading(lambda paths: read_volume(file_blobs(paths)).array, folder, output)


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
    """The second time counts; the first one loads what later ones share, and is of few files."""
    paths = sorted((folder / "images").iterdir())
    few = output.parent / "few"
    few.mkdir()
    read([Path(shutil.copy(path, few)) for path in paths[:4]])
    meter = Meter()
    array = read(paths)
    measured = meter.read()
    np.save(output, array[:, ::64, ::64])
    return measured
