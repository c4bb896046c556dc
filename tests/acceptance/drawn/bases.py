"""The studies that are drawn from, with what is known of them beforehand: phantoms, simulated limbs, real series.

The numbers of real series are computed here from the stored values alone, by other code than the node's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from scipy import ndimage

from dicom_node.demo.simulator.limb_study import write_limb_study
from inference.contract.concepts import LONG_AXIS, VOLUME
from inference.phantoms.limb.study import limb_study
from inference.quantities.panel import ADC, T1, T2
from inference.quantities.statistics import MEAN
from tests.acceptance.drawn.expectations import Number
from tests.acceptance.studies import write_ball_study

BODY, LIMB = "body", "extremity_sts_sbrt"
LIMB_SEEDS = (12, 32)  # the network was not trained on them
BODY_LEVEL = 0.2  # of the bundle "body", between the 0.5th and the 99.5th percentile
REAL_TOLERANCE = 0.12  # the network works on voxels of another size

REAL_SERIES = (
    "mr/philips_elition_mprage_classic",
    "mr/philips_knee_rwvm/t1w_coronal",
    "mr/philips_knee_rwvm/t2w_sagittal",
    "mr/prostatex_0000_study/3_t2_tse_sag",
    "mr/prostatex_0000_study/4_t2_tse_tra",
    "mr/prostatex_0000_study/5_t2_tse_cor",
    "mr/siemens_prisma_t1_sag_HFDR",
)


@dataclass(frozen=True)
class Base:
    """An undisturbed study, and the numbers that one application must find in it.

    `series` are the datasets of each series by a name of ours. `main` names the series that the application measures.
    `quantities` are optional maps by the name of their series, each with the number that it gives.
    """

    name: str
    application: str
    series: Mapping[str, Sequence[Dataset]]
    main: str
    numbers: tuple[Number, ...]
    tracking: str
    quantities: Mapping[str, Number]


def ball(folder: Path, oblique: bool) -> Base:
    """Return a cylinder with a ball, whose size is known exactly."""
    study = write_ball_study(folder, oblique=oblique)
    datasets = _read(study.series["t1w"].paths)
    volume = _body_volume(datasets)
    known = np.pi * 60.0**2 * 80.0 / 1000.0
    assert abs(volume - known) < 0.02 * known
    name = "oblique ball" if oblique else "ball"
    return Base(name, BODY, {"t1w": datasets}, "t1w", (Number(VOLUME, known, 0.06 * known),), "Body", {})


def limb(folder: Path, seed: int) -> Base:
    """Return a simulated limb with a mass, and the truth about it."""
    simulated = limb_study(seed, 0)
    study = write_limb_study(folder, simulated)
    truth = simulated.truth
    numbers = (
        Number(LONG_AXIS, truth.long_axis, 4.0),
        Number(VOLUME, truth.volume_ml, 0.2 * truth.volume_ml),
    )
    quantities = {
        "adc": Number(ADC.code, truth.adc, 0.05 * truth.adc, MEAN),
        "t1_map": Number(T1.code, truth.t1, 0.05 * truth.t1, MEAN),
        "t2_map": Number(T2.code, truth.t2, 0.05 * truth.t2, MEAN),
    }
    series = {name: _read(written.paths) for name, written in study.series.items()}
    return Base(f"limb {seed}", LIMB, series, "t1w", numbers, "GTV", quantities)


def real(folder: Path) -> Base:
    """Return a real series: what is brighter than a fifth of its range, in one piece, has a known volume."""
    datasets = _read(sorted(path for path in folder.rglob("*") if path.is_file()))
    volume = _body_volume(datasets)
    number = Number(VOLUME, volume, REAL_TOLERANCE * volume)
    return Base(f"{folder.parent.name}/{folder.name}", BODY, {"series": datasets}, "series", (number,), "Body", {})


def makers(data: Path | None, folder: Path) -> list[tuple[int, Callable[[], Base]]]:
    """Return what makes each base, with its weight in the draw. Without `data` there are no real series."""
    found: list[tuple[int, Callable[[], Base]]] = [
        (14, lambda: ball(folder / "ball", oblique=False)),
        (10, lambda: ball(folder / "oblique", oblique=True)),
        *((2, _limb_maker(folder, seed)) for seed in LIMB_SEEDS),
    ]
    if data is not None:
        places = [data / name for name in REAL_SERIES]
        places += sorted(data.glob("sarcoma/*/MR_T1"))[:20]
        found += [(1, _real_maker(place)) for place in places]
    return [(weight, lru_cache(maxsize=1)(make)) for weight, make in found]


def _limb_maker(folder: Path, seed: int) -> Callable[[], Base]:
    return lambda: limb(folder / f"limb-{seed}", seed)


def _real_maker(place: Path) -> Callable[[], Base]:
    return lambda: real(place)


def _read(paths: Sequence[Path]) -> list[Dataset]:
    return [dcmread(path) for path in paths]


def _body_volume(datasets: Sequence[Dataset]) -> float:
    """Return the volume in mL of the largest piece above BODY_LEVEL, from the stored values and the plain rescale."""
    slices = sorted(_along_normal(datasets), key=lambda one: one[0])
    array = np.stack([values for _, values in slices])
    low, high = np.percentile(array, [0.5, 99.5])
    labels, _ = ndimage.label((array - low) / (high - low) > BODY_LEVEL, np.ones((3, 3, 3)))
    largest = int(np.bincount(labels.ravel())[1:].max())
    rows, columns = (float(v) for v in datasets[0].PixelSpacing)
    between = float(np.median(np.diff([position for position, _ in slices])))
    return largest * rows * columns * between / 1000.0


def _along_normal(datasets: Sequence[Dataset]) -> Iterator[tuple[float, NDArray[np.float64]]]:
    for ds in datasets:
        across, down = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        position = float(np.dot(np.cross(across, down), np.array(ds.ImagePositionPatient, float)))
        slope, intercept = float(ds.get("RescaleSlope", 1) or 1), float(ds.get("RescaleIntercept", 0) or 0)
        yield position, ds.pixel_array * slope + intercept
