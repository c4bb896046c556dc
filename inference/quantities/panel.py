"""The quantitative panel: ADC, T1, T2 and fat fraction on the grid of the source, and their statistics in a mask.

Applications name their optional inputs as NAMES does; a series that cannot be used is told in a note and stops nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.contract.concepts import PERCENT
from inference.contract.findings import NOT_ATTEMPTED, Code, Measurement, ParametricMap
from inference.contract.inputs import input_key
from inference.contract.series_input import SeriesInput
from inference.quantities.fits.adc import PLAUSIBLE as ADC_PLAUSIBLE
from inference.quantities.fits.adc import adc_map
from inference.quantities.fits.fat_fraction import fat_fraction
from inference.quantities.missing import Missing
from inference.quantities.statistics import Statistics, as_measurements, interior, statistics
from inference.volumes.geometry import Affine, Array, Geometry, Mask
from inference.volumes.grouping import SAME_PLACE
from inference.volumes.planes import B_VALUE, COMPONENT
from inference.volumes.reading import read_volumes
from inference.volumes.registration import DISPLACED, register
from inference.volumes.resampling import resample_to_grid
from inference.volumes.volume import Volume
from storage.errors import InputRefused

MONO_EXPONENTIAL = Code("113250", "DCM", "Mono-exponential diffusion model")
HALF = 0.5  # of the weight of neighbouring voxels that must have a value
ONE_BEFORE = np.array([[1, 0, 0, -1], [0, 1, 0, -1], [0, 0, 1, -1], [0, 0, 0, 1]])  # a grid with a border of one voxel
INSIDE = (
    "The statistics of {} are those of the outline without its outermost voxels in each slice, which show in part what "
    "lies around it."
)


@dataclass(frozen=True)
class Quantity:
    """`plausible` is what a voxel can have, beyond it there is no value; `limits` what the median of a whole map and
    the mean of a region can be: other units lie far outside. `beyond` is the largest share of a map that may lie
    outside `plausible` in the right unit: fits to noise in the air do, a fraction does not.
    """

    name: str
    label: str
    code: Code
    unit: Code
    plausible: tuple[float, float]
    limits: tuple[float, float]
    beyond: float = 0.5


ADC = Quantity(
    "adc", "ADC", Code("113041", "DCM", "Apparent Diffusion Coefficient"),
    Code("um2/s", "UCUM", "square micrometer per second"), ADC_PLAUSIBLE, (50.0, 4000.0),
)  # fmt: skip
T1 = Quantity(
    "t1", "T1", Code("113063", "DCM", "T1"), Code("ms", "UCUM", "millisecond"), (20.0, 6000.0), (100.0, 5000.0)
)
T2 = Quantity("t2", "T2", Code("113065", "DCM", "T2"), Code("ms", "UCUM", "millisecond"), (0.0, 3000.0), (5.0, 1000.0))
FAT = Quantity(
    "fat", "Fat fraction", Code("129100", "DCM", "Fat fraction"), PERCENT, (-20.0, 120.0), (-5.0, 105.0), beyond=0.1
)
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
    """`asked` are the quantities it is about. `values` are the maps on the grid of the source, by the name of the
    quantity, NaN where there is no value; `missing` says of the other quantities why there is none. `inputs` are the
    volumes that were used; `unused` says why others were not that would have given a quantity better.
    """

    asked: tuple[Quantity, ...]
    values: Mapping[str, Array]
    maps: tuple[ParametricMap, ...]
    missing: Mapping[str, Missing]
    inputs: tuple[Volume, ...]
    unused: tuple[str, ...]

    def statistics(self, quantity: Quantity, mask: Mask) -> Statistics | Missing:
        """Of the interior of `mask`: the border would pull every mean towards the tissue around it."""
        if quantity.name not in self.values:
            return self.missing[quantity.name]
        return statistics(self.values[quantity.name], interior(mask), quantity.limits)

    def measurements(self, mask: Mask) -> tuple[Measurement, ...]:
        """All statistics of the quantities asked for; of those that are missing the mean, with the reason's code."""
        return tuple(
            one for q in self.asked for one in as_measurements(q.code, q.unit, self.statistics(q, mask))
        )  # fmt: skip

    def notes(self, mask: Mask) -> tuple[str, ...]:
        """Of what the statistics are, what was not used, and what is missing and why, in a sentence for each reason."""
        measured: list[str] = []
        reasons: dict[str, list[str]] = {}
        for quantity in self.asked:
            found = self.statistics(quantity, mask)
            where = reasons.setdefault(found.reason, []) if isinstance(found, Missing) else measured
            where.append(quantity.label)
        return (
            *((INSIDE.format(", ".join(measured)),) if measured else ()),
            *self.unused,
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


def panel(volumes: Volumes, source: Volume, asked: Sequence[Quantity] = QUANTITIES) -> Panel:
    """What the `volumes`, by the names of NAMES, give on the grid of `source`. Quantities that are not `asked` for are
    neither measured nor spoken of.
    """
    values: dict[str, Array] = {}
    maps: list[ParametricMap] = []
    missing: dict[str, Missing] = {}
    used: list[Volume] = []
    unused: list[str] = []
    for quantity in asked:
        ways = [way for way in SOURCES[quantity.name] if all(name in volumes for name in way)]
        reasons: dict[str, str] = {}
        for way in ways:
            found = [volume for name in way for volume in volumes[name]]
            try:
                array, method = _computed(quantity, way, volumes)
                on_source = bring(_plausible(quantity, array), found[0], source)
            except InputRefused as error:
                reasons[" and ".join(way)] = str(error)
                continue
            values[quantity.name] = on_source
            maps.append(ParametricMap(quantity.label, quantity.code, quantity.unit, on_source, method))
            used += found
            unused += [f"The series for {names} was not used: {reason}." for names, reason in reasons.items()]
            break
        else:
            why = "; ".join(reasons.values()) or "no usable series was given for it"
            missing[quantity.name] = Missing(NOT_ATTEMPTED, why)
    return Panel(tuple(asked), values, tuple(maps), missing, tuple(used), tuple(unused))


def bring(values: Array, volume: Volume, source: Volume) -> Array:
    """`values` on the grid of `volume` brought to that of `source`, linear; NaN where there is none, as outside the
    field of view of `volume`, which ends with the outer faces of its voxels.

    By patient coordinates within a frame of reference, else by registration of the images. Raises InputRefused where
    its check fails, and where the images hardly say where they belong along an axis of the patient
    (`Registration.loose`), as along the shaft of a limb, and one reaches farther along it than the other: only two
    fields of view that end alike, within DISPLACED mm, were planned on the same stretch.
    """
    affine = volume.geometry.affine
    if not volume.frame_of_reference_uid or volume.frame_of_reference_uid != source.frame_of_reference_uid:
        affine = _registered(volume, source)
    if _one_grid(Geometry(values.shape, affine), source.geometry):
        return values
    known = np.isfinite(values)
    bordered = affine @ ONE_BEFORE

    def moved(array: NDArray[np.float32]) -> NDArray[np.float32]:
        shape = source.geometry.shape
        return np.asarray(
            resample_to_grid(np.pad(array, 1), bordered, source.geometry.affine, shape, order=1), np.float32
        )

    weight, total = moved(known.astype(np.float32)), moved(np.where(known, values, 0).astype(np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight >= HALF, total / weight, np.nan).astype(np.float32)


def _registered(volume: Volume, source: Volume) -> Affine:
    """The affine of `volume` in the patient coordinates of `source`."""
    found = register(volume, source)
    reason = found.reason
    affine = np.linalg.inv(found.matrix) @ volume.geometry.affine
    apart = np.abs(_ends(affine, volume.geometry.shape) - _ends(source.geometry.affine, source.geometry.shape))
    if found.accepted and np.any(found.loose & (apart.max(axis=0) > DISPLACED)):
        reason = "the two do not show the same length of the limb, and too little tells where they belong along it"
    if reason:
        raise InputRefused(f"its images cannot be brought onto those that are outlined: {reason}")
    return affine


def _one_grid(one: Geometry, other: Geometry) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine)


def _ends(affine: Affine, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Where a field of view begins and ends along each axis of the patient, through its middle; (2, 3), LPS mm."""
    middle = affine[:3, :3] @ (np.array(shape) - 1) / 2 + affine[:3, 3]
    half = np.abs(affine[:3, :3] * shape).max(axis=1) / 2
    return np.stack([middle - half, middle + half])


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
    one, other = found["water"], found["fat"]
    if one.frame_of_reference_uid != other.frame_of_reference_uid or not _one_grid(one.geometry, other.geometry):
        raise InputRefused(
            f"water (series {one.series_instance_uid}) and fat (series {other.series_instance_uid}) lie on different "
            "grids or have different frames of reference, so that their voxels do not show the same place"
        )
    water, fat = (volume.array / np.float32(volume.signal_scale) for volume in (one, other))
    return fat_fraction(water, fat)


def _plausible(quantity: Quantity, array: Array) -> Array:
    """The map without what no tissue can have. Raises InputRefused where its unit cannot be the quantity's: too much of
    it would be erased, zeros aside, or the median of the rest is none. In per mille, lean muscle alone would remain.
    """
    low, high = quantity.plausible
    measured, kept = np.isfinite(array) & (array != 0), (array > low) & (array < high)
    unfit = np.count_nonzero(measured & ~kept) > quantity.beyond * np.count_nonzero(measured)
    median = float(np.median(array[kept])) if kept.any() else float("nan")
    if unfit or not quantity.limits[0] <= median <= quantity.limits[1]:
        raise InputRefused(f"the values of the series cannot be {quantity.label} in {quantity.unit.value}")
    return np.where(kept, array, np.nan).astype(np.float32)
