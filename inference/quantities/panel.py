"""The quantitative panel: ADC, T1, T2 and fat fraction on the grid of the source, and their statistics in a mask.

The optional inputs of applications have the names in NAMES. A note names each series that cannot be used; the others
are still measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inference.contract.concepts import DIFFUSION_ANALYSIS, FAT_ANALYSIS
from inference.contract.findings import NOT_ATTEMPTED, Code, Measurement, ParametricMap
from inference.contract.inputs import InputRule, input_key
from inference.contract.series_input import SeriesInput, read_input
from inference.headers.image_content import COMPONENT, FRAME_TYPE, MAGNITUDE, is_signal
from inference.quantities.alignment import align, same_grid
from inference.quantities.fits.adc import adc_map
from inference.quantities.fits.fat_fraction import fat_fraction
from inference.quantities.map_units import map_values, plausible_values
from inference.quantities.missing import Missing
from inference.quantities.panel_quantities import ADC, FAT, QUANTITIES, T1, T2, PanelQuantity
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


# The inputs that give each quantity, the better ones first. Those of one tuple are needed together.
SOURCES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "adc": (("dwi",), ("adc",)),
    "t1": (("t1_map",),),
    "t2": (("t2_map",),),
    "fat": (("fat_fraction",), ("dixon",), ("water", "fat")),
}
MAPS: Mapping[str, PanelQuantity] = {"adc": ADC, "t1_map": T1, "t2_map": T2, "fat_fraction": FAT}
DERIVATIONS = {("dwi",): DIFFUSION_ANALYSIS, ("dixon",): FAT_ANALYSIS, ("water", "fat"): FAT_ANALYSIS}
NAMES = tuple(dict.fromkeys(name for ways in SOURCES.values() for way in ways for name in way))

Volumes = Mapping[str, tuple[Volume, ...]]


@dataclass(frozen=True, eq=False)
class Panel:
    """The maps of the quantities on the grid of the source, and the reasons for those that are missing.

    `asked` are the quantities that were asked for. `values` are the maps by the name of the quantity, NaN where there
    is no value; `missing` gives the reason for each quantity without a map. `inputs` are the volumes that were used;
    `unused` gives the reasons for volumes that would have given a quantity better and could not be used. `assumed` are
    sentences on units that no header states.
    """

    asked: tuple[PanelQuantity, ...]
    values: Mapping[str, Array]
    maps: tuple[ParametricMap, ...]
    missing: Mapping[str, Missing]
    inputs: tuple[Volume, ...]
    unused: tuple[str, ...]
    assumed: tuple[str, ...] = ()

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
    volumes = _with_inner_maps(volumes)
    values: dict[str, Array] = {}
    maps: list[ParametricMap] = []
    missing: dict[str, Missing] = {}
    used: list[Volume] = []
    unused: list[str] = []
    assumed: list[str] = []
    for quantity in asked:
        ways = [way for way in SOURCES[quantity.name] if all(name in volumes for name in way)]
        reasons: dict[str, str] = {}
        for way in ways:
            found = [volume for name in way for volume in volumes[name]]
            try:
                computed = _compute_map(quantity, way, volumes)
                on_source = align(computed.values, found[0], source)
            except InputRefused as error:
                reasons[" and ".join(way)] = str(error)
                continue
            values[quantity.name] = on_source
            origin = _origin(way, found)
            derivation, method = DERIVATIONS.get(way), computed.method
            maps.append(
                ParametricMap(quantity.label, quantity.code, quantity.unit, on_source, origin, derivation, method)
            )
            assumed += [computed.note] if computed.note else []
            used += found
            unused += [f"The series for {names} was not used: {reason}." for names, reason in reasons.items()]
            break
        else:
            why = "; ".join(reasons.values()) or "no usable series was given for it"
            missing[quantity.name] = Missing(NOT_ATTEMPTED, why)
    return Panel(tuple(asked), values, tuple(maps), missing, tuple(used), tuple(unused), tuple(assumed))


@dataclass(frozen=True, eq=False)
class _ComputedMap:
    """A map on the grid of its volume, with the code of its method if there is one, and a note if one is needed."""

    values: Array
    method: Code | None = None
    note: str = ""


def _with_inner_maps(volumes: Volumes) -> Volumes:
    """Add the maps that a scanner stored in the series of its source images, where they have no series of their own."""
    everything = [volume for found in volumes.values() for volume in found]
    inner = {
        name: tuple(v for v in everything if v.told_apart.get(FRAME_TYPE) == quantity.frame_type)
        for name, quantity in MAPS.items()
        if name not in volumes
    }
    return {**volumes, **{name: found for name, found in inner.items() if found}}


def _compute_map(quantity: PanelQuantity, way: tuple[str, ...], volumes: Volumes) -> _ComputedMap:
    """Compute the map of a quantity on the grid of the first volume of the first input that `way` names."""
    if way == ("dwi",):
        return _ComputedMap(plausible_values(quantity, _adc_from_diffusion(volumes["dwi"])), MONO_EXPONENTIAL)
    if way in (("dixon",), ("water", "fat")):
        return _ComputedMap(plausible_values(quantity, _fat_from_dixon(volumes, way)))
    if len(volumes[way[0]]) > 1:
        raise InputRefused(f"the series of {quantity.label} holds {len(volumes[way[0]])} volumes")
    values, note = map_values(quantity, volumes[way[0]][0])
    return _ComputedMap(values, note=note)


def _adc_from_diffusion(weighted: Sequence[Volume]) -> Array:
    b_values = [volume.told_apart.get(B_VALUE) for volume in weighted]
    known = [(v, float(b)) for v, b in zip(weighted, b_values, strict=True) if b is not None and _is_magnitude(v)]
    if any(not np.allclose(v.geometry.affine, known[0][0].geometry.affine, atol=SAME_PLACE) for v, _ in known):
        raise InputRefused("the volumes of different b-values lie in different places; send the whole series again")
    return adc_map([v.array for v, _ in known], [b for _, b in known]).values


def _origin(way: tuple[str, ...], found: Sequence[Volume]) -> tuple[Volume, ...]:
    """Return those volumes of the inputs of `way` from which the map is computed; a series may hold others beside."""
    if way == ("dwi",):
        return tuple(v for v in found if v.told_apart.get(B_VALUE) is not None and _is_magnitude(v))
    if way == ("dixon",):
        return tuple(v for v in found if v.told_apart.get(FRAME_TYPE) in ("water", "fat") and is_signal(v.told_apart))
    return tuple(found)


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
            "water and fat lie on different grids or have different frames of reference, so that their voxels do not "
            "show the same place"
        )
    return fat_fraction(one.array, other.array)
