"""The quantitative panel: ADC, T1, T2 and fat fraction on the grid of the source, and their statistics in a mask.

Applications name their optional inputs as NAMES does; a series that cannot be used is told in a note and stops nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.application import SeriesInput
from inference.concepts import PERCENT
from inference.findings import NOT_ATTEMPTED, Code, Mask, Measurement, ParametricMap
from inference.grouping import SAME_PLACE
from inference.inputs import input_key
from inference.measurements import resample
from inference.planes import COMPONENT
from inference.quantities.adc import PLAUSIBLE as ADC_PLAUSIBLE
from inference.quantities.adc import adc_map
from inference.quantities.fat_fraction import fat_fraction
from inference.quantities.missing import Missing
from inference.quantities.relaxation import T1_PLAUSIBLE
from inference.quantities.statistics import Statistics, as_measurements, interior, statistics
from inference.registration import register
from inference.volume import Array, Volume, read_volumes
from storage.errors import InputRefused

B_VALUE = "b-value"  # of Volume.told_apart, s/mm2
MONO_EXPONENTIAL = Code("113250", "DCM", "Mono-exponential diffusion model")
HALF = 0.5  # of the weight of neighbouring voxels that must have a value
INSIDE = (
    "The statistics of {} are those of the outline without its outermost voxels in each slice, which show in part what "
    "lies around it."
)


@dataclass(frozen=True)
class Quantity:
    """`plausible` is what a voxel can have, beyond it there is no value; `limits` what the median of a whole map and
    the mean of a region can be: other units lie far outside."""

    name: str
    label: str
    code: Code
    unit: Code
    plausible: tuple[float, float]
    limits: tuple[float, float]


ADC = Quantity(
    "adc", "ADC", Code("113041", "DCM", "Apparent Diffusion Coefficient"),
    Code("um2/s", "UCUM", "square micrometer per second"), ADC_PLAUSIBLE, (50.0, 4000.0),
)  # fmt: skip
T1 = Quantity("t1", "T1", Code("113063", "DCM", "T1"), Code("ms", "UCUM", "millisecond"), T1_PLAUSIBLE, (100.0, 5000.0))
T2 = Quantity("t2", "T2", Code("113065", "DCM", "T2"), Code("ms", "UCUM", "millisecond"), (0.0, 3000.0), (5.0, 1000.0))
FAT = Quantity("fat", "Fat fraction", Code("129100", "DCM", "Fat fraction"), PERCENT, (-20.0, 120.0), (-5.0, 105.0))
QUANTITIES = (ADC, T1, T2, FAT)
# The inputs that give each quantity, the better ones first; those of one tuple are needed together.
SOURCES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "adc": (("dwi",), ("adc",)),
    "t1": (("t1_map",),),
    "t2": (("t2_map",),),
    "fat": (("fat_fraction",), ("dixon",), ("water", "fat")),
}
NAMES = tuple(dict.fromkeys(name for ways in SOURCES.values() for way in ways for name in way))

Volumes = Mapping[str, tuple[Volume, ...]]


@dataclass(frozen=True, eq=False)
class Panel:
    """`values` are the maps on the grid of the source, by the name of the quantity, NaN where there is no value;
    `missing` says of the other quantities why there is none. `inputs` are the volumes that were used."""

    values: Mapping[str, Array]
    maps: tuple[ParametricMap, ...]
    missing: Mapping[str, Missing]
    inputs: tuple[Volume, ...]

    def statistics(self, quantity: Quantity, mask: Mask) -> Statistics | Missing:
        """Of the interior of `mask`: the border would pull every mean towards the tissue around it."""
        if quantity.name not in self.values:
            return self.missing[quantity.name]
        return statistics(self.values[quantity.name], interior(mask), quantity.limits)

    def measurements(self, mask: Mask) -> tuple[Measurement, ...]:
        """All statistics of all quantities; of those that are missing the mean, with the reason's code."""
        return tuple(
            one for q in QUANTITIES for one in as_measurements(q.code, q.unit, self.statistics(q, mask))
        )  # fmt: skip

    def notes(self, mask: Mask) -> tuple[str, ...]:
        """Of what the statistics are, and what is missing and why, in a sentence for each reason."""
        measured: list[str] = []
        reasons: dict[str, list[str]] = {}
        for quantity in QUANTITIES:
            found = self.statistics(quantity, mask)
            where = reasons.setdefault(found.reason, []) if isinstance(found, Missing) else measured
            where.append(quantity.label)
        return (
            *((INSIDE.format(", ".join(measured)),) if measured else ()),
            *(f"Not measured: {', '.join(labels)}; {reason}." for reason, labels in reasons.items()),
        )


def read_optional(
    inputs: Mapping[str, SeriesInput], names: Iterable[str] = NAMES, time_point: int = 0
) -> tuple[dict[str, tuple[Volume, ...]], tuple[str, ...]]:
    """The volumes of those inputs that are there, and a note for each series that makes none."""
    volumes: dict[str, tuple[Volume, ...]] = {}
    notes = []
    for name in names:
        if (bound := inputs.get(input_key(name, time_point))) is None:
            continue
        try:
            volumes[name] = read_volumes(bound.paths)
        except InputRefused as error:
            notes.append(f"The series for {name} was not used: {error}.")
    return volumes, tuple(notes)


def panel(volumes: Volumes, source: Volume) -> Panel:
    """What the `volumes`, by the names of NAMES, give on the grid of `source`."""
    values: dict[str, Array] = {}
    maps: list[ParametricMap] = []
    missing: dict[str, Missing] = {}
    used: list[Volume] = []
    for quantity in QUANTITIES:
        ways = [way for way in SOURCES[quantity.name] if all(name in volumes for name in way)]
        reasons = []
        for way in ways:
            found = [volume for name in way for volume in volumes[name]]
            try:
                array, method = _computed(quantity, way, volumes)
                on_source = bring(_plausible(quantity, array), found[0], source)
            except InputRefused as error:
                reasons.append(str(error))
                continue
            values[quantity.name] = on_source
            maps.append(ParametricMap(quantity.label, quantity.code, quantity.unit, on_source, method))
            used += found
            break
        else:
            why = "; ".join(reasons) or "no series of the study gives it"
            missing[quantity.name] = Missing(NOT_ATTEMPTED, why)
    return Panel(values, tuple(maps), missing, tuple(used))


def bring(values: Array, volume: Volume, source: Volume) -> Array:
    """`values` on the grid of `volume` brought to that of `source`, linear; NaN where there is none.

    By patient coordinates within a frame of reference, else by registration of the images. Raises InputRefused where
    its check fails.
    """
    matrix = np.eye(4)
    if not volume.frame_of_reference_uid or volume.frame_of_reference_uid != source.frame_of_reference_uid:
        found = register(volume, source)
        if not found.accepted:
            raise InputRefused(f"its images cannot be brought onto those that are outlined: {found.reason}")
        matrix = found.matrix
    affine = np.linalg.inv(matrix) @ volume.geometry.affine
    if np.allclose(affine, source.geometry.affine) and values.shape == source.geometry.shape:
        return values
    known = np.isfinite(values)

    def moved(array: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = source.geometry.shape
        return np.asarray(resample(array, affine, source.geometry.affine, shape, order=1), np.float32)

    weight, total = moved(known.astype(np.float32)), moved(np.where(known, values, 0).astype(np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight >= HALF, total / weight, np.nan).astype(np.float32)


def _computed(quantity: Quantity, way: tuple[str, ...], volumes: Volumes) -> tuple[Array, Code | None]:
    """A map on the grid of the first volume of the way, and how it was measured."""
    if way == ("dwi",):
        return _from_diffusion(volumes["dwi"]), MONO_EXPONENTIAL
    if way in (("dixon",), ("water", "fat")):
        return _from_dixon(volumes, way), None
    if len(volumes[way[0]]) > 1:
        raise InputRefused(f"the series of {quantity.label} holds {len(volumes[way[0]])} volumes")
    array = volumes[way[0]][0].array
    if quantity is FAT and float(np.percentile(array, 99)) <= 1.5:  # parts of one, not percent
        return 100.0 * array, None
    return array, None


def _from_diffusion(weighted: Sequence[Volume]) -> Array:
    b_values = [volume.told_apart.get(B_VALUE) for volume in weighted]
    known = [(v, float(b)) for v, b in zip(weighted, b_values, strict=True) if b is not None]
    if any(not np.allclose(v.geometry.affine, known[0][0].geometry.affine, atol=SAME_PLACE) for v, _ in known):
        raise InputRefused("the volumes of different b-values lie in different places; send the whole series again")
    return adc_map([v.array / v.signal_scale for v, _ in known], [b for _, b in known]).values


def _from_dixon(volumes: Volumes, way: tuple[str, ...]) -> Array:
    """From one series that holds water and fat among others, or from one series of each."""
    if way == ("dixon",):
        found = {str(v.told_apart.get(COMPONENT)): v for v in volumes["dixon"]}
    else:
        found = {name: volumes[name][0] for name in way}
    if "water" not in found or "fat" not in found:
        raise InputRefused("the Dixon series does not hold water and fat")
    water, fat = (found[name].array / np.float32(found[name].signal_scale) for name in ("water", "fat"))
    return fat_fraction(water, fat)


def _plausible(quantity: Quantity, array: Array) -> Array:
    """The map without what no tissue can have. Raises InputRefused where its unit cannot be the quantity's."""
    low, high = quantity.plausible
    values = np.where((array > low) & (array < high), array, np.nan).astype(np.float32)
    known = values[np.isfinite(values)]
    median = float(np.median(known)) if known.size else float("nan")
    if not quantity.limits[0] <= median <= quantity.limits[1]:
        raise InputRefused(f"the values of the series cannot be {quantity.label} in {quantity.unit.value}")
    return values
