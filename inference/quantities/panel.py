"""The quantitative panel: ADC, T1, T2 and fat fraction on the grid of the source, and their statistics in a mask.

The optional inputs of applications have the names in NAMES. A note names each series that cannot be used; the others
are still measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inference.contract.concepts import PERCENT
from inference.contract.findings import NOT_ATTEMPTED, Code, Measurement, ParametricMap
from inference.contract.inputs import InputRule, input_key
from inference.contract.series_input import SeriesInput, read_input
from inference.headers.image_content import COMPONENT, FRAME_TYPE, MAGNITUDE, is_signal
from inference.quantities.alignment import align, same_grid
from inference.quantities.fits.adc import PLAUSIBLE as ADC_PLAUSIBLE
from inference.quantities.fits.adc import adc_map
from inference.quantities.fits.fat_fraction import fat_fraction
from inference.quantities.missing import Missing
from inference.quantities.statistics import Statistics, as_measurements, interior, region_statistics
from inference.volumes.geometry import Array, Mask
from inference.volumes.grouping import SAME_PLACE
from inference.volumes.planes import B_VALUE
from inference.volumes.volume import Volume
from storage.errors import InputRefused

MONO_EXPONENTIAL = Code("113250", "DCM", "Mono-exponential diffusion model")
INSIDE = (
    "The statistics of {} are those of the outline without its outermost voxels in each slice, which show in part what "
    "lies around it."
)


@dataclass(frozen=True)
class PanelQuantity:
    """A quantity of the panel with its code, its unit and its ranges.

    A voxel outside of `plausible` has no value. The median of a whole map and the mean of a region lie within `limits`;
    in a wrong unit they would lie far outside. `beyond` is the largest share of voxels outside of `plausible` in a map
    of the right unit: it is large for fits, which give any value in noise, and small for fractions.
    """

    name: str
    label: str
    code: Code
    unit: Code
    plausible: tuple[float, float]
    limits: tuple[float, float]
    beyond: float = 0.5


ADC = PanelQuantity(
    "adc", "ADC", Code("113041", "DCM", "Apparent Diffusion Coefficient"),
    Code("um2/s", "UCUM", "square micrometer per second"), ADC_PLAUSIBLE, (50.0, 4000.0),
)  # fmt: skip
T1 = PanelQuantity(
    "t1", "T1", Code("113063", "DCM", "T1"), Code("ms", "UCUM", "millisecond"), (20.0, 6000.0), (100.0, 5000.0)
)
T2 = PanelQuantity(
    "t2", "T2", Code("113065", "DCM", "T2"), Code("ms", "UCUM", "millisecond"), (0.0, 3000.0), (5.0, 1000.0)
)
FAT = PanelQuantity(
    "fat", "Fat fraction", Code("129100", "DCM", "Fat fraction"), PERCENT, (-20.0, 120.0), (-5.0, 105.0), beyond=0.1
)
QUANTITIES = (ADC, T1, T2, FAT)
# The inputs that give each quantity, the better ones first. Those of one tuple are needed together.
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
    """The maps of the quantities on the grid of the source, and the reasons for those that are missing.

    `asked` are the quantities that were asked for. `values` are the maps by the name of the quantity, NaN where there
    is no value; `missing` gives the reason for each quantity without a map. `inputs` are the volumes that were used;
    `unused` gives the reasons for volumes that would have given a quantity better and could not be used.
    """

    asked: tuple[PanelQuantity, ...]
    values: Mapping[str, Array]
    maps: tuple[ParametricMap, ...]
    missing: Mapping[str, Missing]
    inputs: tuple[Volume, ...]
    unused: tuple[str, ...]

    def statistics(self, quantity: PanelQuantity, mask: Mask) -> Statistics | Missing:
        """Measure `quantity` in the interior of `mask`; its border would pull the mean towards the tissue around it."""
        if quantity.name not in self.values:
            return self.missing[quantity.name]
        return region_statistics(self.values[quantity.name], interior(mask), quantity.limits)

    def measurements(self, mask: Mask) -> tuple[Measurement, ...]:
        """Return all statistics of the quantities asked for.

        Of a missing quantity only the mean is returned, without a value and with the code of the reason.
        """
        return tuple(
            one for q in self.asked for one in as_measurements(q.code, q.unit, self.statistics(q, mask))
        )  # fmt: skip

    def notes(self, mask: Mask) -> tuple[str, ...]:
        """Return sentences on the region of the statistics, unused series, and the reasons for missing quantities."""
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


def read_optional_volumes(
    inputs: Mapping[str, SeriesInput], rules: Sequence[InputRule], names: Iterable[str] = NAMES, time_point: int = 0
) -> tuple[dict[str, tuple[Volume, ...]], tuple[str, ...]]:
    """Read the optional inputs that are present, as `rules` ask, and note each series that makes no volume."""
    volumes: dict[str, tuple[Volume, ...]] = {}
    notes = []
    for name in names:
        if (bound := inputs.get(input_key(name, time_point))) is None:
            continue
        try:
            volumes[name] = read_input(bound, rules)
        except InputRefused as error:
            notes.append(f"The series for {name} was not used: {error}.")
    return volumes, tuple(notes)


def measure_panel(volumes: Volumes, source: Volume, asked: Sequence[PanelQuantity] = QUANTITIES) -> Panel:
    """Compute the maps of the quantities that are `asked` for on the grid of `source`.

    The keys of `volumes` are those of NAMES.
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
                array, method = _compute_map(quantity, way, volumes)
                on_source = align(_plausible_values(quantity, array), found[0], source)
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


def _compute_map(quantity: PanelQuantity, way: tuple[str, ...], volumes: Volumes) -> tuple[Array, Code | None]:
    """Compute the map of a quantity, and return it with the code of its method, None without one.

    `way` names the inputs from which the map is computed; the map lies on the grid of the first volume of the first
    one.
    """
    if way == ("dwi",):
        return _adc_from_diffusion(volumes["dwi"]), MONO_EXPONENTIAL
    if way in (("dixon",), ("water", "fat")):
        return _fat_from_dixon(volumes, way), None
    if len(volumes[way[0]]) > 1:
        raise InputRefused(f"the series of {quantity.label} holds {len(volumes[way[0]])} volumes")
    array = volumes[way[0]][0].array
    if quantity is FAT and float(np.percentile(array, 99)) <= 1.5:  # The map is in parts of one, not in percent.
        return 100.0 * array, None
    return array, None


def _adc_from_diffusion(weighted: Sequence[Volume]) -> Array:
    b_values = [volume.told_apart.get(B_VALUE) for volume in weighted]
    known = [(v, float(b)) for v, b in zip(weighted, b_values, strict=True) if b is not None and _is_magnitude(v)]
    if any(not np.allclose(v.geometry.affine, known[0][0].geometry.affine, atol=SAME_PLACE) for v, _ in known):
        raise InputRefused("the volumes of different b-values lie in different places; send the whole series again")
    return adc_map([v.array / v.signal_scale for v, _ in known], [b for _, b in known]).values


def _is_magnitude(volume: Volume) -> bool:
    return is_signal(volume.told_apart) and volume.told_apart.get(COMPONENT, MAGNITUDE) == MAGNITUDE


def _fat_from_dixon(volumes: Volumes, way: tuple[str, ...]) -> Array:
    """Compute the fat fraction from one series that holds water and fat among others, or from one series of each."""
    if way == ("dixon",):
        found = {str(v.told_apart.get(FRAME_TYPE)): v for v in volumes["dixon"] if is_signal(v.told_apart)}
    else:
        found = {name: volumes[name][0] for name in way}
    if "water" not in found or "fat" not in found:
        raise InputRefused("the Dixon series does not hold water and fat")
    one, other = found["water"], found["fat"]
    if one.frame_of_reference_uid != other.frame_of_reference_uid or not same_grid(one.geometry, other.geometry):
        raise InputRefused(
            f"water (series {one.series_instance_uid}) and fat (series {other.series_instance_uid}) lie on different "
            "grids or have different frames of reference, so that their voxels do not show the same place"
        )
    water, fat = (volume.array / np.float32(volume.signal_scale) for volume in (one, other))
    return fat_fraction(water, fat)


def _plausible_values(quantity: PanelQuantity, array: Array) -> Array:
    """Return the map without the values that no tissue can have.

    Raises InputRefused if the map cannot be in the unit of the quantity: too many of its values, zeros aside, are
    outside of `plausible`, or the median of the others is outside of `limits`. The median alone would not be enough: of
    a fat fraction in per mille, only lean muscle would remain, and the median of lean muscle is plausible in percent.
    """
    low, high = quantity.plausible
    measured, kept = np.isfinite(array) & (array != 0), (array > low) & (array < high)
    unfit = np.count_nonzero(measured & ~kept) > quantity.beyond * np.count_nonzero(measured)
    median = float(np.median(array[kept])) if kept.any() else float("nan")
    if unfit or not quantity.limits[0] <= median <= quantity.limits[1]:
        raise InputRefused(f"the values of the series cannot be {quantity.label} in {quantity.unit.value}")
    return np.where(kept, array, np.nan).astype(np.float32)
